"""timm's operations of RandAugment by ours, against timm's own functions, which are Pillow's: within one level."""

from __future__ import annotations

import random

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from timm.data import auto_augment

from loaders.augment.running import plainly, run_operations
from loaders.augment.spaces import parameters_of
from loaders.augment.table import Table
from loaders.augment.timm_space import timm_space

FILL = (124, 116, 104)
NAMES = {False: auto_augment._RAND_TRANSFORMS, True: auto_augment._RAND_INCREASING_TRANSFORMS}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("increasing", "place"), [(increasing, place) for increasing in NAMES for place in range(len(NAMES[increasing]))]
)
def test_pixels_are_timms(increasing: bool, place: int, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    images = np.stack([source[40:143, 60:191] for source in sources])
    name, operation = NAMES[increasing][place], timm_space(increasing=increasing, interpolated=True)[place]
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)  # timm's choice of the sign
    for level in (0.0, 1.0, 3.3, 5.0, 7.0, 9.0, 10.0):
        to_arguments = auto_augment.LEVEL_TO_ARG[name]
        arguments = to_arguments(level, {}) if to_arguments else ()
        if name.startswith("Posterize") and arguments == (0,):
            continue  # Pillow refuses to keep no bit at all
        options = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
        apply = auto_augment.NAME_TO_OP[name]
        theirs = np.stack([np.asarray(apply(Image.fromarray(image), *arguments, **options)) for image in images])
        magnitudes = operation.magnitudes(np.full(3, level), 103, 131) * (sign if operation.signed else 1)
        parameters = parameters_of(operation, magnitudes, 103, 131)[:, None]
        table = Table(np.full((3, 1), operation.kind, np.int32), parameters, FILL, frozenset({operation.kind}))
        for run in (plainly, run_operations):
            ours = run(torch.from_numpy(images), table).numpy()
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1, f"{name} at {level}"


def test_the_space_is_timms() -> None:
    for increasing, names in NAMES.items():
        *ours, last = timm_space(increasing=increasing, interpolated=True)
        assert len(ours) == len(names)
        assert last.name == "Identity"
        for operation, name in zip(ours, names, strict=True):
            assert name.startswith(operation.name.removesuffix("From")), "in its order"
