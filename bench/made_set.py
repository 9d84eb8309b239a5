"""A data set for measurements, where none is given: shipped photographs cut to ImageNet's sizes and weights.

What a decoder costs follows from the pixels and the bytes of a file. ImageNet's training images have about 470 by 390
pixels and 110 kB, in long sides mostly of 500; so have these, each another cut of one of fourteen photographs that
scikit-image and scikit-learn ship.
"""

from __future__ import annotations

import io
import random
import statistics
from pathlib import Path

import numpy as np
from PIL import Image

from convert.threads import in_threads
from loaders.cores import usable_cores

NAME = "photographs_of_packages"  # as rows call it
MEAN_BYTES = 110_000
_LONG_SIDE, _RATIO, _PORTRAITS = 500, 4 / 3, 0.25
_SCALES = (0.88, 1.12)  # of the sides
_ZOOMS = (0.7, 1.4)  # pixels of the photograph to one of the image
_QUALITY = 95
_NOISES = (0.0, 20.0)  # levels, standard deviation: as of a sensor, for what was enlarged has none and needs no bits
_GRAY = ("brick", "grass", "gravel", "moon", "camera", "coins")
_COLOUR = ("astronaut", "coffee", "cat", "rocket", "immunohistochemistry", "hubble_deep_field")
_TRIED = 84  # images that the noise is chosen by


def make_tree(out: Path, *, images: int, seed: int = 0) -> Path:
    """Writes `out/train/<photograph>/*.JPEG`, equally many of each photograph, and returns `out`.

    Args:
        out: a folder, made where it does not exist.
        images: in all, at least.
        seed: chooses cuts.
    """
    photographs = _photographs()
    each = -(-images // len(photographs))
    places = [(name, number) for name in photographs for number in range(each)]
    noise = _noise_for(photographs, seed)
    for name in photographs:
        (out / "train" / name).mkdir(parents=True, exist_ok=True)

    def write(place: int) -> None:
        name, number = places[place]
        encoded = _encoded(photographs[name], f"{seed}/{name}/{number}", noise)
        (out / "train" / name / f"{name}_{number:05d}.JPEG").write_bytes(encoded)

    in_threads(write, len(places), usable_cores(), desc="made set", shown=True)
    return out


def _photographs() -> dict[str, Image.Image]:
    import skimage.data  # with a tree of one's own, and for reports and plans, neither need be installed
    import sklearn.datasets

    arrays = {name: getattr(skimage.data, name)() for name in (*_COLOUR, *_GRAY)}
    china, flower = sklearn.datasets.load_sample_images().images
    return {name: Image.fromarray(np.asarray(array)).convert("RGB") for name, array in arrays.items()} | {
        "china": Image.fromarray(china),
        "flower": Image.fromarray(flower),
    }


def _encoded(photograph: Image.Image, key: str, noise: float) -> bytes:
    rng = random.Random(key)
    scale, ratio = rng.uniform(*_SCALES), _RATIO if rng.random() >= _PORTRAITS else 1 / _RATIO
    width = round(_LONG_SIDE * scale * min(1.0, ratio))
    height = round(_LONG_SIDE * scale / max(1.0, ratio))
    zoom = min(rng.uniform(*_ZOOMS), photograph.width / width, photograph.height / height)
    box = width * zoom, height * zoom
    left, top = (rng.random() * max(0.0, side - length) for side, length in zip(photograph.size, box, strict=True))
    shown = (left, top, min(left + box[0], photograph.width), min(top + box[1], photograph.height))
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box=shown))
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, noise, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _noise_for(photographs: dict[str, Image.Image], seed: int) -> float:
    """The noise with which images have ImageNet's mean size."""
    tried = [(name, f"{seed}/{name}/{number}") for name in photographs for number in range(_TRIED // len(photographs))]
    low, high = _NOISES
    for _ in range(8):
        middle = (low + high) / 2
        mean = statistics.fmean(len(_encoded(photographs[name], key, middle)) for name, key in tried)
        low, high = (low, middle) if mean >= MEAN_BYTES else (middle, high)
    return high
