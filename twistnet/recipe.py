"""Recipes: everything that changes the weights, and nothing that merely describes the machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loaders import CropPolicy, InputError, Order
from loaders.augment import Augment, Mix, policy_named
from twistnet.arguments import did_you_mean

OPTIMISERS = ("sgd", "lamb", "adamw")
LOSSES = ("cross_entropy", "bce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to train. A run stores it, and resuming a run reads it from there.

    Attributes:
        name: of the recipe that this one was made from.
        model: a name that timm knows.
        epochs: passes over the training split.
        batch_size: samples a rank and backward pass.
        accumulate: backward passes a step.
        lr: peak learning rate at a total batch of `lr_batch`; it is scaled to the run's total batch.
        lr_batch: the total batch that `lr` holds for.
        min_lr: learning rate at the end, as a share of the peak.
        warmup_epochs: epochs of linear warm-up from zero.
        optimiser: "sgd", "lamb" or "adamw"; the last two are timm's and torch's with their own defaults.
        momentum: of SGD.
        nesterov: whether SGD's momentum is Nesterov's.
        weight_decay: in SGD's gradient; of the weights themselves with the others.
        decay_norms_and_biases: whether parameters of one dimension are decayed too.
        clip_grad: largest norm of the gradient; None does not clip.
        loss: "cross_entropy", or "bce": a binary cross-entropy of every class, whose target is whether the mixed and
            smoothed label is above 0.2.
        label_smoothing: share of the target spread over all classes.
        mixup_alpha: of mixup's Beta distribution; 0 is off.
        cutmix_alpha: likewise for cutmix; where both are on, each sample is mixed by either, evenly.
        mix_group: consecutive samples within which partners are drawn.
        policy: operations on the images' colours and geometry, as `loaders.augment.policy_named` reads it.
        size: side of the training images in pixels.
        eval_size: side of the evaluation images in pixels.
        scale_min: least share of the image that a training crop covers.
        crop_pct: share of the shorter side that the evaluation crop keeps.
        interpolation: "bilinear" or "bicubic", antialiased.
        hflip: probability of a left-right flip.
        drop_path: rate of stochastic depth in the last block.
        shuffle: "global" or "window".
        repeats: how often a batch holds each of its images with other draws (repeated augmentation); 1 is off.
        amp: mixed precision: bfloat16 where the device has it, else float16 with a loss scaler.
        seed: of initialisation, order and draws.

    Raises:
        InputError: for an impossible value.
    """

    name: str
    model: str = "twistnet18"
    epochs: int
    batch_size: int
    accumulate: int = 1
    lr: float
    lr_batch: int = 256
    min_lr: float = 0.0
    warmup_epochs: int = 5
    optimiser: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True
    clip_grad: float | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_group: int = 8
    policy: str = "none"
    size: int = 224
    eval_size: int = 224
    scale_min: float = 0.08
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    hflip: float = 0.5
    drop_path: float = 0.0
    shuffle: str = "global"
    repeats: int = 1
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "lr_batch": 1, "size": 32, "eval_size": 32}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} {getattr(self, name)} is too small: take at least {low}.")
        for name in ("momentum", "label_smoothing", "drop_path", "min_lr"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is impossible: take at least 0, below 1.")
        for name in ("lr", "weight_decay", "warmup_epochs", "mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is negative: take 0 or more.")
        if self.shuffle == "none":
            raise InputError("shuffle 'none' would train on one class after the other: choose global or window.")
        for name, known in (("optimiser", OPTIMISERS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(known)}.")
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0: set one, or turn nesterov off.")
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs: lower it, or train longer."
            )
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise InputError(f"clip_grad {self.clip_grad} is impossible: take a norm above 0, or leave it out.")
        # What the loaders need is validated where they define it.
        self.crops(), self.train_augment()
        batch = self.batch_size
        Order(num_samples=batch, global_batch=batch, shuffle=self.shuffle, seed=self.seed, repeats=self.repeats)

    def peak_lr(self, world_size: int) -> float:
        """The learning rate after warm-up: linear in the total batch (Goyal et al. 2017)."""
        return self.lr * self.total_batch(world_size) / self.lr_batch

    def total_batch(self, world_size: int) -> int:
        """Samples of one step over all ranks."""
        return self.batch_size * self.accumulate * world_size

    def crops(self) -> CropPolicy:
        """How images are cropped, flipped and resized."""
        return CropPolicy(
            scale=(self.scale_min, 1.0), hflip=self.hflip, crop_pct=self.crop_pct, interpolation=self.interpolation
        )

    def train_augment(self) -> Augment:
        """What happens to training images on the device."""
        mixes = self.mixup_alpha > 0 or self.cutmix_alpha > 0
        return Augment(
            policy=policy_named(self.policy),
            mix=Mix(mixup_alpha=self.mixup_alpha, cutmix_alpha=self.cutmix_alpha, group=self.mix_group)
            if mixes
            else None,
        )

    def with_changes(self, **changes: Any) -> Recipe:
        """The recipe with those fields replaced that are not None; fewer epochs shorten a warm-up that is not named.

        Raises:
            InputError: for a field that does not exist or a value that is impossible.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        epochs = given.get("epochs")
        if isinstance(epochs, int) and epochs >= 1 and given.get("warmup_epochs") is None:
            given["warmup_epochs"] = min(self.warmup_epochs, epochs - 1)
        return from_dict({**dataclasses.asdict(self), **given})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return dataclasses.asdict(self)


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe from stored values.

    Raises:
        InputError: for unknown or missing keys and for impossible values.
    """
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for key in values:
        if key not in fields:
            raise InputError(f"recipe key {key!r} is unknown{did_you_mean(key, fields) or '.'}")
    missing = [key for key, field in fields.items() if field.default is dataclasses.MISSING and key not in values]
    if missing:
        raise InputError(f"the recipe lacks {', '.join(missing)}: add them.")
    return Recipe(**values)


def _check_type(name: str, annotation: str, value: Any) -> None:
    """Refuses a value that a file or a caller has of another type: "8" is no 8, and no number is NaN."""
    wanted = annotation.split(" | ")
    if value is None and "None" in wanted:
        return
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    right = isinstance(value, kinds[wanted[0]]) and (wanted[0] == "bool" or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"{name} {value!r} is impossible: give a value of type {annotation}, and a finite one.")


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
    """A2 of the same: half as long."""
    return dataclasses.replace(_a1(), name="a2", epochs=300, weight_decay=0.02, label_smoothing=0.0, mixup_alpha=0.1)


def _a3() -> Recipe:
    """A3 of the same: 100 epochs at 160 pixels, evaluated at 224."""
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
    return named("dtd").with_changes(
        name="demo_dtd", epochs=6, batch_size=16, lr=0.32, warmup_epochs=1, size=64, eval_size=64
    )


_RECIPES = {
    "guide": _guide,
    "a1": _a1,
    "a2": _a2,
    "a3": _a3,
    "dtd": _dtd,
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
