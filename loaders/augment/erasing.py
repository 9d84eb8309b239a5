"""Random erasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from loaders import draws as sample_draws
from loaders.augment.boxes import inside_of
from loaders.augment.checks import check_erase, check_normalised
from loaders.augment.upload import upload
from loaders.draws import EraseDraws, Ints
from loaders.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Erase:
    """Random erasing (Zhong et al. 2020): a box of the normalised image becomes one colour, before it is mixed.

    Boxes are drawn as `torchvision.transforms.v2.RandomErasing` and timm draw them: ten tries to fit one.

    Attributes:
        probability: share of the samples with a box.
        scale: least and greatest share of the image's area.
        ratio: least and greatest height over width, log-uniform.
        mode: "const" for the mean colour (zeros), "rand" for a colour of three normal numbers.

    Raises:
        InputError: if a value is out of its range.
    """

    probability: float = 0.25
    scale: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    mode: str = "const"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise InputError(f"Erasing's probability is {self.probability}: give a number from 0 to 1.")
        if not _is_range(self.scale, 1.0):
            raise InputError(f"Erasing's scale is {self.scale}: give two shares in order, above 0 and up to 1.")
        if not _is_range(self.ratio, math.inf):
            raise InputError(f"Erasing's ratio is {self.ratio}: give two positive finite numbers in order.")
        if self.mode not in ("const", "rand"):
            raise InputError(f"Erasing's mode is {self.mode!r}: give 'const' or 'rand'.")

    def draw(self, seed: int, epoch: int, ids: Ints, size: int) -> EraseDraws:
        """What is erased of each sample: a pure function of the seed, the epoch and the sample's id.

        Args:
            seed: of the run.
            epoch: from 0.
            ids: (B,) sample ids.
            size: side of the images in pixels.
        """
        return sample_draws.erasing(
            seed,
            epoch,
            ids,
            size,
            probability=self.probability,
            scale=self.scale,
            ratio=self.ratio,
            coloured=self.mode == "rand",
        )

    def __call__(self, images: Tensor, draws: EraseDraws) -> Tensor:
        """The images with their boxes filled: new ones, of the memory format and on the device of `images`.

        Args:
            images: (B, 3, H, W) floating point, normalised.
            draws: of these B samples, at this size.

        Raises:
            InputError: if the images are not as above, or the draws are not of these images.
        """
        check_normalised("Erasing", images)
        check_erase(draws, len(images), *images.shape[2:])
        inside = inside_of(upload(draws.boxes, images.device), *images.shape[2:])
        colours = upload(draws.colours, images.device)[:, :, None, None].to(images.dtype)
        return torch.where(inside, colours, images)


def _is_range(values: object, most: float) -> bool:
    """Whether these are two finite numbers in order, above 0 and up to `most`."""
    return (
        isinstance(values, Sequence)
        and len(values) == 2
        and all(isinstance(value, Real) and math.isfinite(value) for value in values)
        and 0 < values[0] <= values[1] <= most
    )
