"""From decoded pixels to what a model takes: RandAugment, normalisation, mixing, precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from loaders.augment.mixing import Mix
from loaders.augment.randaugment import RandAugment
from loaders.augment.table import NUM_OPS, table_of
from loaders.draws import Ints, MixDraws, OpDraws
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Turns a decoded batch into a model's input; without RandAugment and mixing it is evaluation's normalisation.

    Use::

        augment = Augment(randaugment=RandAugment(), mix=Mix(), dtype=torch.bfloat16)
        images = augment(pixels, augment.draw(seed, epoch, ids, size))

    Attributes:
        randaugment: applied to the uint8 pixels; None: not at all.
        mix: applied to the normalised images in float32; None: not at all.
        mean: of the channels red, green and blue, on the scale 0 to 1.
        std: likewise, positive.
        dtype: of the result: float32, bfloat16 or float16.

    Raises:
        InputError: if a value is out of its range.
    """

    randaugment: RandAugment | None = None
    mix: Mix | None = None
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or not all(math.isfinite(value) for value in self.mean):
            raise InputError(f"The mean is {self.mean}: give three finite numbers, for red, green and blue.")
        if len(self.std) != 3 or not all(math.isfinite(value) and value > 0 for value in self.std):
            raise InputError(f"The std is {self.std}: give three positive numbers, for red, green and blue.")
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
        ops = self.randaugment.draw(seed, epoch, ids) if self.randaugment is not None else None
        mix = self.mix.draw(seed, epoch, ids, size) if self.mix is not None else None
        return AugmentDraws(ops, mix)

    def __call__(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        """The augmented, normalised and mixed images.

        Args:
            images: (B, H, W, 3) uint8, on any device; they are not changed.
            draws: from `draw`, for these samples.

        Returns:
            (B, 3, H, W) of `dtype`, channels_last, on the same device.

        Raises:
            InputError: if the images are not as above.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise InputError(
                f"Augmentation was given {images.dtype} images of shape {tuple(images.shape)}: "
                "give decoded uint8 images of shape (B, H, W, 3)."
            )
        assert (draws.ops is None) == (self.randaugment is None), "draws of another Augment"
        assert (draws.mix is None) == (self.mix is None), "draws of another Augment"
        if images.is_cuda and (draws.ops is None or draws.ops.ops.shape[1] <= NUM_OPS):
            return self.by_kernels(images, draws)
        if self.randaugment is not None and draws.ops is not None:
            images = self.randaugment(images, draws.ops)
        normalised = self._normalise(images)
        if self.mix is not None and draws.mix is not None:
            normalised = self.mix(normalised, draws.mix)
        return normalised.to(self.dtype)

    def by_kernels(self, images: Tensor, draws: AugmentDraws) -> Tensor:
        """The same by Triton's kernels, as a call does on a card where a sample has two operations at most.

        Args:
            images: (B, H, W, 3) uint8, on a card, or anywhere in Triton's interpreter.
            draws: from `draw`, for these samples.
        """
        from loaders.augment import fused  # Triton

        count, height, width, _ = images.shape
        num_bins = self.randaugment.num_bins if self.randaugment is not None else 0
        table = table_of(count, draws.ops, draws.mix, num_bins, (height, width))
        mean, std = _levels_of_a_row(self.mean, self.std, 1, images.device)
        return fused.augmented(
            images.contiguous(),
            fused.DeviceTable.of(table, images.device),
            mean,
            std,
            self.dtype,
            has_ops=draws.ops is not None,
            has_mix=draws.mix is not None,
        )

    def _normalise(self, images: Tensor) -> Tensor:
        """(pixel / 255 - mean) / std: a (B, 3, H, W) float32 view of new (B, H, W, 3) memory."""
        count, height, width, _ = images.shape
        mean, std = _levels_of_a_row(self.mean, self.std, width, images.device)
        values = images.reshape(count, height, width * 3).to(torch.float32).sub_(mean).div_(std)
        return values.view(images.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _levels_of_a_row(mean: RGB, std: RGB, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std in levels of 0 to 255, repeated for each pixel of a row: two (W * 3,) float32 tensors.

    A whole row, because broadcasting over the three channels of a pixel is slow on a CPU; kept by
    device, because a copy from the host stalls it.
    """
    levels = torch.tensor((mean, std), dtype=torch.float64).mul_(255.0).float().repeat(1, width).to(device)
    return levels[0], levels[1]
