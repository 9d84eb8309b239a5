"""The recipes by name, with where each comes from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial

from loaders import InputError
from twistnet.recipe import Recipe


def _guide() -> Recipe:
    """The pretraining guide's configuration, to the letter."""
    return Recipe(
        name="guide",
        epochs=600,
        batch_size=256,
        lr=0.1,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        policy="randaugment-n2-m9",
    )


def _a1() -> Recipe:
    """A1 of Wightman, Touvron and Jégou, "ResNet strikes back" (2021), Table 2, whose total batch is 2,048."""
    return Recipe(
        name="a1",
        epochs=600,
        batch_size=256,
        lr=5e-3,
        lr_batch=2048,
        optimiser="lamb",
        weight_decay=0.01,
        decay_norms_and_biases=False,
        loss="bce",
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        policy="rand-m7-n2-mstd0.5-inc1",
        repeats=3,
        drop_path=0.05,
        crop_pct=0.95,
        interpolation="bicubic",
    )


def _a2() -> Recipe:
    """A2 of "ResNet strikes back" (2021), Table 2: half as long as A1."""
    return dataclasses.replace(_a1(), name="a2", epochs=300, weight_decay=0.02, label_smoothing=0.0, mixup_alpha=0.1)


def _a3() -> Recipe:
    """A3 of "ResNet strikes back" (2021), Table 2: 100 epochs at 160 pixels, evaluated at 224."""
    return dataclasses.replace(
        _a2(),
        name="a3",
        epochs=100,
        lr=8e-3,
        policy="rand-m6-n2-mstd0.5-inc1",
        repeats=1,
        drop_path=0.0,
        size=160,
    )


def _fast(epochs: int, ramp_start: int, ramp_end: int) -> Recipe:
    """FFCV's ResNet-18 schedules: libffcv/ffcv-imagenet, rn18_configs, one card at a batch of 1,024.

    They begin at 160 px and end at 192, and are scored at 256 with mirror images. Published for 16, 32 and 88 epochs:
    66.9, 70.0 and 72.4 %, by a ResNet-18 whose strided convolutions blur first, which is left out here. Theirs decays
    every parameter but those with "bn" in the name, which misses the shortcuts' norms; here all norms and biases are
    spared. Made for `twistnet convert --formats beton --images max_side=400`.
    """
    return Recipe(
        name=f"fast{epochs}",
        epochs=epochs,
        batch_size=1024,
        lr=0.5,
        lr_batch=1024,
        schedule="linear",
        warmup_epochs=2,
        weight_decay=5e-5,
        decay_norms_and_biases=False,
        size=192,
        start_size=160,
        ramp_start=ramp_start / epochs,
        ramp_end=ramp_end / epochs,
        eval_size=256,
        interpolation="area",
        flip_tta=True,
    )


def _dtd() -> Recipe:
    """Fine-tuning on DTD from ImageNet weights: 0.4 of the guide's rate, gentle crops, which keep the texture."""
    return Recipe(
        name="dtd",
        epochs=100,
        batch_size=64,
        lr=0.04,
        warmup_epochs=2,
        nesterov=True,
        weight_decay=5e-4,
        decay_norms_and_biases=False,
        scale_min=0.2,
    )


def _dtd_scratch() -> Recipe:
    """The paper's training on DTD from random weights (arXiv 2602.07262): 200 epochs at batch 64 and a rate of 0.05.

    What the paper does not give, the weight decay and the warm-up, is `dtd`'s.
    """
    return dataclasses.replace(
        _dtd(),
        name="dtd_scratch",
        epochs=200,
        lr=0.05,
        lr_batch=64,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )


def _demo() -> Recipe:
    """Minutes on two CPU cores: small images and a few hundred steps, too few for RandAugment and mixing to pay."""
    return Recipe(
        name="demo",
        epochs=10,
        batch_size=32,
        lr=0.4,
        warmup_epochs=1,
        nesterov=True,
        weight_decay=5e-4,
        decay_norms_and_biases=False,
        mix_group=4,
        size=64,
        eval_size=64,
        scale_min=0.3,
    )


def _demo_dtd() -> Recipe:
    """`dtd` at the demo's scale: a rate at which six epochs come somewhere from scratch too."""
    return _dtd().with_changes(
        name="demo_dtd", epochs=6, batch_size=16, lr=0.32, warmup_epochs=1, size=64, eval_size=64
    )


_RECIPES: dict[str, Callable[[], Recipe]] = {
    "guide": _guide,
    "a1": _a1,
    "a2": _a2,
    "a3": _a3,
    "fast16": partial(_fast, 16, 11, 13),
    "fast32": partial(_fast, 32, 23, 27),
    "fast88": partial(_fast, 88, 65, 76),
    "dtd": _dtd,
    "dtd_scratch": _dtd_scratch,
    "demo": _demo,
    "demo_dtd": _demo_dtd,
}
NAMES = tuple(_RECIPES)


def named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: where there is none.
    """
    if name not in _RECIPES:
        raise InputError(f"recipe {name!r} is unknown: choose one of {', '.join(NAMES)}.")
    return _RECIPES[name]()


def source(name: str) -> str:
    """Where the recipe of that name comes from, on one line."""
    made = _RECIPES[name]
    return " ".join((inspect.getdoc(made.func if isinstance(made, partial) else made) or "").split())
