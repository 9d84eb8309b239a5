"""A recipe: everything that changes the weights, and nothing that merely describes the machine."""

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
SCHEDULES = ("cosine", "linear")
TUNES = ("all", "classifier", "probe")
_SIZE_STEP = 32  # of progressive size: what the model's strides divide


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
        schedule: what follows the warm-up: "cosine", half a cosine, or "linear", both down to `min_lr`.
        min_lr: learning rate at the end, as a share of the peak.
        warmup_epochs: epochs of linear warm-up from zero.
        optimiser: "sgd", "lamb" or "adamw"; the last two are timm's and torch's with their own defaults.
        momentum: of SGD.
        nesterov: whether SGD's momentum is Nesterov's.
        weight_decay: in SGD's gradient; of the weights themselves with the others.
        decay_norms_and_biases: whether parameters of one dimension are decayed too.
        layer_decay: factor by which the learning rate shrinks from each layer to the one before, the classifier having
            the whole, as timm groups a model's layers (Clark et al. 2020, "ELECTRA"); 0 and 1 are off.
        tune: what trains: "all", or the "classifier" on a frozen backbone; "probe" fits a linear one to features of
            the centre crops instead, without steps (`twistnet.probing`).
        clip_grad: largest norm of the gradient; None does not clip.
        loss: "cross_entropy", or "bce": a binary cross-entropy of every class, whose target is whether the mixed and
            smoothed label is above 0.2.
        label_smoothing: share of the target spread over all classes.
        mixup_alpha: of mixup's Beta distribution; 0 is off.
        cutmix_alpha: likewise for cutmix; where both are on, each sample is mixed by either, evenly.
        mix_group: consecutive samples within which partners are drawn.
        policy: operations on the images' colours and geometry, as `loaders.augment.policy_named` reads it.
        size: side of the training images in pixels.
        start_size: the side that training begins with (progressive size); None: `size` from the start.
        ramp_start: share of the epochs after which the side begins to grow from `start_size`.
        ramp_end: share of the epochs after which it is `size`; in between it is the nearest multiple of 32.
        eval_size: side of the evaluation images in pixels.
        scale_min: least share of the image that a training crop covers.
        crop_pct: share of the shorter side that the evaluation crop keeps.
        interpolation: "bilinear" or "bicubic", antialiased.
        hflip: probability of a left-right flip.
        drop_path: rate of stochastic depth in the last block.
        shuffle: "global" or "window".
        repeats: how often a batch holds each of its images with other draws (repeated augmentation); 1 is off.
        amp: mixed precision: True: bfloat16 where the device has it, else float16 with a loss scaler; False: float32,
            on cards by TF32; None: bfloat16 on cards that have it, else float32.
        compress_gradients: whether ranks exchange gradients in bfloat16.
        sync_batch_norm: whether batch norm's statistics are those of all ranks' batches.
        ema_decay: of the moving average of the weights, a step, which is then what is scored and kept; 0 is off. Early
            steps have a smaller one, as timm's warm-up of it: a short run would keep its random start otherwise.
        flip_tta: whether evaluation averages the logits of each image and its mirror image.
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
    schedule: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: int = 5
    optimiser: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True
    layer_decay: float = 0.0
    tune: str = "all"
    clip_grad: float | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_group: int = 8
    policy: str = "none"
    size: int = 224
    start_size: int | None = None
    ramp_start: float = 0.0
    ramp_end: float = 0.0
    eval_size: int = 224
    scale_min: float = 0.08
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    hflip: float = 0.5
    drop_path: float = 0.0
    shuffle: str = "global"
    repeats: int = 1
    amp: bool | None = None
    compress_gradients: bool = False
    sync_batch_norm: bool = False
    ema_decay: float = 0.0
    flip_tta: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "lr_batch": 1, "size": 32, "eval_size": 32}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} {getattr(self, name)} is too small: take at least {low}.")
        for name in ("momentum", "label_smoothing", "drop_path", "min_lr", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is impossible: take at least 0, below 1.")
        for name in ("scale_min", "crop_pct"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is impossible: take above 0, at most 1.")
        for name in ("hflip", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is impossible: take 0 to 1.")
        if self.mix_group < 2:
            raise InputError(f"mix_group {self.mix_group} is too small: take at least 2, since none mixes with itself.")
        for name in ("lr", "weight_decay", "warmup_epochs", "mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is negative: take 0 or more.")
        if self.shuffle == "none":
            raise InputError("shuffle 'none' would train on one class after the other: choose global or window.")
        chosen = (("optimiser", OPTIMISERS), ("loss", LOSSES), ("schedule", SCHEDULES), ("tune", TUNES))
        for name, known in chosen:
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
        if self.start_size is not None and not 32 <= self.start_size <= self.size:
            raise InputError(f"start_size {self.start_size} is impossible: take 32 to the size, {self.size}.")
        if self.start_size is not None and self.ramp_end == 0 and self.start_size < self.size:
            raise InputError(
                f"start_size {self.start_size} is without effect: set ramp_end too, the share of the epochs at which "
                f"images have grown to {self.size}, above 0."
            )
        if not 0 <= self.ramp_start <= self.ramp_end <= 1:
            raise InputError(
                f"ramp_start {self.ramp_start} and ramp_end {self.ramp_end} are impossible: "
                "take 0 <= start <= end <= 1."
            )
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

    def size_at(self, epoch: int) -> int:
        """Side of the training images in pixels in an epoch from 0, growing as FFCV's ImageNet recipes have it."""
        if self.start_size is None:
            return self.size
        start, end = round(self.ramp_start * self.epochs), round(self.ramp_end * self.epochs)
        if epoch >= end:
            return self.size
        if epoch <= start:
            return self.start_size
        grown = self.start_size + (self.size - self.start_size) * (epoch - start) / (end - start)
        return min(max(round(grown / _SIZE_STEP) * _SIZE_STEP, self.start_size), self.size)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, in groups of `mix_group`."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def crops(self) -> CropPolicy:
        """How images are cropped, flipped and resized."""
        return CropPolicy(
            scale=(self.scale_min, 1.0), hflip=self.hflip, crop_pct=self.crop_pct, interpolation=self.interpolation
        )

    def train_augment(self) -> Augment:
        """What happens to training images on the device."""
        return Augment(
            policy=policy_named(self.policy),
            mix=Mix(mixup_alpha=self.mixup_alpha, cutmix_alpha=self.cutmix_alpha, group=self.mix_group)
            if self.mixes
            else None,
        )

    def with_changes(self, **changes: Any) -> Recipe:
        """The recipe with those fields replaced that are not None.

        Fewer epochs shorten a warm-up that is not named, and a smaller size the size that training begins with. Where
        evaluation has the size of training, it keeps to it.

        Raises:
            InputError: for a field that does not exist or a value that is impossible.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        epochs = given.get("epochs")
        if isinstance(epochs, int) and epochs >= 1 and given.get("warmup_epochs") is None:
            given["warmup_epochs"] = min(self.warmup_epochs, epochs - 1)
        size = given.get("size")
        if isinstance(size, int) and self.eval_size == self.size:
            given.setdefault("eval_size", size)
        if isinstance(size, int) and self.start_size is not None and given.get("start_size") is None:
            given["start_size"] = min(self.start_size, size)
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
