"""Which part of an image a sample shows, in training and in evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders import draws
from loaders.errors import InputError

Ints = npt.NDArray[np.int64]

INTERPOLATIONS = ("bilinear", "bicubic", "area")


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPolicy:
    """Crop, flip and resize, in the terms of timm and torchvision.

    Attributes:
        scale: range of a training crop's share of the image's area.
        ratio: range of its width / height.
        hflip: probability of a left-right flip in training.
        crop_pct: share of the shorter side that the central evaluation square keeps.
        interpolation: "bilinear" or "bicubic", both antialiased, or "area", which is FFCV's.

    Raises:
        InputError: for a range that is empty or outside its limits, or an unknown interpolation.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    crop_pct: float = 0.875
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop scale {self.scale} is impossible: take 0 < low <= high <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"crop ratio {self.ratio} is impossible: take 0 < low <= high.")
        if not 0 <= self.hflip <= 1:
            raise InputError(f"flip probability {self.hflip} is impossible: take 0 to 1.")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"interpolation {self.interpolation!r} is unknown: choose one of {', '.join(INTERPOLATIONS)}."
            )
        if not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct {self.crop_pct} is impossible: take above 0, at most 1.")

    def boxes(self, seed: int, epoch: int, ids: Ints, sizes: Ints, *, train: bool) -> Ints:
        """The boxes of some samples.

        Args:
            sizes: (B, 2) heights and widths of their images, in pixels.
            train: random resized crops of (seed, epoch, id), or the central square.

        Returns:
            (B, 4) int64: top, left, height, width.
        """
        if not train:
            return draws.centre_crop(sizes[:, 0], sizes[:, 1], self.crop_pct)
        return draws.crop_boxes(seed, epoch, ids, sizes, self.scale, self.ratio)
