"""From decoded pixels to what a model takes: a policy's operations, normalisation, erasing, mixing, precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from loaders.augment import on_cpu
from loaders.augment.checks import check_count, check_erase, check_mix
from loaders.augment.erasing import Erase
from loaders.augment.finishing import finish_of
from loaders.augment.mixing import Mix
from loaders.augment.policy import Policy
from loaders.augment.running import plainly
from loaders.augment.table import Table
from loaders.draws import EraseDraws, Ints, MixDraws, OpDraws
from loaders.errors import InputError

RGB = tuple[float, float, float]

# Mean and standard deviation of ImageNet's training images, on the scale 0 to 1.
IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class AugmentDraws(NamedTuple):
    """What happens to each sample of a batch; None for the parts that an `Augment` does not have."""

    ops: OpDraws | None = None
    mix: MixDraws | None = None
    erase: EraseDraws | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Turns a decoded batch into a model's input; with nothing but its levels it is evaluation's normalisation.

    Use::

        augment = Augment(policy=RandAugment(), mix=Mix(), dtype=torch.bfloat16)
        images = augment(pixels, augment.draw(seed, epoch, ids, size))

    Attributes:
        policy: its operations are applied to the uint8 pixels; None: none are.
        erase: applied to the normalised images in float32; None: not at all.
        mix: applied then; None: not at all.
        mean: of the channels red, green and blue, on the scale 0 to 1.
        std: likewise, positive.
        dtype: of the result: float32, bfloat16 or float16.

    Raises:
        InputError: if a value is out of its range.
    """

    policy: Policy | None = None
    erase: Erase | None = None
    mix: Mix | None = None
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name, kind in (("policy", Policy), ("erase", Erase), ("mix", Mix)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise InputError(f"The {name} is {given!r}: give a {kind.__name__} of loaders.augment, or None.")
        for name, above, numbers in (("mean", -math.inf, "finite"), ("std", 0.0, "positive")):
            given = getattr(self, name)
            values = _numbers(given)
            if len(values) != 3 or not all(above < value < math.inf for value in values):
                raise InputError(f"The {name} is {given}: give three {numbers} numbers, for red, green and blue.")
            object.__setattr__(self, name, values)  # of a list too: what is kept by them needs tuples
        if self.dtype not in _DTYPES:
            raise InputError(f"The dtype is {self.dtype}: give torch.float32, torch.bfloat16 or torch.float16.")

    def check_batch_size(self, batch_size: int) -> None:
        """Raises InputError unless `batch_size`, that of a rank, is a multiple of the mixing group."""
        if self.mix is not None:
            self.mix.check_batch_size(batch_size)

    def draw(self, seed: int, epoch: int, ids: Ints, size: int) -> AugmentDraws:
        """What happens to each sample: a pure function of its arguments, on the host.

        Args:
            seed: of the run.
            epoch: from 0.
            ids: (B,) sample ids, B a multiple of the mixing group.
            size: side of the images in pixels.

        Raises:
            InputError: if B is not a multiple of the mixing group.
        """
        ops = self.policy.draw(seed, epoch, ids) if self.policy is not None else None
        mix = self.mix.draw(seed, epoch, ids, size) if self.mix is not None else None
        erase = self.erase.draw(seed, epoch, ids, size) if self.erase is not None else None
        return AugmentDraws(ops, mix, erase)

    def __call__(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        """The augmented, normalised and mixed images: by kernels on a card, by the compiled library in the CPU's memory
        where it is there, and else in plain torch, each bit for bit the same.

        Args:
            images: (B, H, W, 3) uint8, on any device; they are not changed.
            draws: from `draw`, for these samples.

        Returns:
            (B, 3, H, W) of `dtype`, channels_last, on the same device.

        Raises:
            InputError: if the images are not as above, or the draws are not of these images.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:3]:
            raise InputError(
                f"Augmentation was given {images.dtype} images of shape {tuple(images.shape)}: "
                "give decoded uint8 images of shape (B, H, W, 3)."
            )
        for part, drawn in ((self.policy, draws.ops), (self.mix, draws.mix), (self.erase, draws.erase)):
            if (part is None) != (drawn is None):
                raise InputError("Augmentation was given draws of another Augment: draw with the same one.")
        count, height, width, _ = images.shape
        if draws.ops is not None:  # what they say is checked where they become a table
            check_count("Augmentation", count, len(draws.ops.ops))
        if draws.erase is not None:
            check_erase(draws.erase, count, height, width)
        if draws.mix is not None:
            check_mix(draws.mix, count, height, width)
        if images.is_cuda:
            return self.by_kernels(images, draws)
        if images.device.type == "cpu" and on_cpu.is_there():
            return self._compiled(images, draws)
        return self.plainly(images, draws)

    def plainly(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        """The same in plain torch, on any device: the definition of the others."""
        table = self._table(images, draws)
        normalised = self._normalise(images if table is None else plainly(images, table))
        if self.erase is not None and draws.erase is not None:
            normalised = self.erase(normalised, draws.erase)
        if self.mix is not None and draws.mix is not None:
            normalised = self.mix(normalised, draws.mix)
        return normalised.to(self.dtype)

    def by_kernels(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        """The same by Triton's kernels, on a card, or anywhere in Triton's interpreter.

        Raises:
            InputError: if the images are too large for them: `loaders.augment.fused.MAX_PIXELS`.
        """
        from loaders.augment import fused  # Triton

        table = self._table(images, draws)
        mean, std = _levels_of_a_row(self.mean, self.std, 1, images.device)
        return fused.augmented(
            images.contiguous(),
            None if table is None else fused.DeviceTable.of(table, images.device),
            fused.DeviceFinish.of(finish_of(len(images), draws.erase, draws.mix), images.device),
            mean,
            std,
            self.dtype,
            has_erase=draws.erase is not None,
            has_mix=draws.mix is not None,
        )

    def _compiled(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        table, finish = self._table(images, draws), finish_of(len(images), draws.erase, draws.mix)
        images = images.contiguous()
        if table is not None:
            images = on_cpu.operated(images, table)
        mean, std = _levels_of_a_row(self.mean, self.std, 1, images.device)
        return on_cpu.finished(images, finish, mean.numpy(), std.numpy()).permute(0, 3, 1, 2).to(self.dtype)

    def _table(self, images: Tensor, draws: AugmentDraws) -> Table | None:
        if self.policy is None or draws.ops is None:
            return None
        return self.policy.table(draws.ops, *images.shape[1:3])

    def _normalise(self, images: Tensor) -> Tensor:
        """(pixel / 255 - mean) / std: a (B, 3, H, W) float32 view of new (B, H, W, 3) memory."""
        count, height, width, _ = images.shape
        mean, std = _levels_of_a_row(self.mean, self.std, width, images.device)
        values = images.reshape(count, height, width * 3).to(torch.float32).sub_(mean).div_(std)
        return values.view(images.shape).permute(0, 3, 1, 2)


def _numbers(given: object) -> tuple[float, ...]:
    """What is given as numbers; none where it is no sequence of them."""
    try:
        return tuple(float(value) for value in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return ()


@lru_cache(maxsize=16)
def _levels_of_a_row(mean: RGB, std: RGB, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std in levels of 0 to 255, repeated for each pixel of a row: two (W * 3,) float32 tensors.

    A whole row, because broadcasting over the three channels of a pixel is slow on a CPU; kept by
    device, because a copy from the host stalls it.
    """
    levels = torch.tensor((mean, std), dtype=torch.float64).mul_(255.0).float().repeat(1, width).to(device)
    return levels[0], levels[1]
