"""What all policies have in common: draws of every sample's operations, and a module that applies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from loaders.augment.checks import check_count, is_whole
from loaders.augment.running import run_operations
from loaders.augment.spaces import Space
from loaders.augment.table import Fill, Table, table_of
from loaders.draws import Ints, OpDraws
from loaders.errors import InputError

BLACK: Fill = (0, 0, 0)
_Range = tuple[float, float]


class Policy(nn.Module, ABC):
    """Operations on uint8 images, drawn for every sample by itself.

    `Augment` takes one for a loader of this package. Elsewhere it is a module like any other::

        augment = RandAugment(num_ops=2, magnitude=9)
        images = augment(images)  # (B, 3, H, W) uint8, on a CPU or a card

    Args:
        num_ops: of a sample, at least 1.
        levels: the least and the greatest that the space has, of all operations or of each.
        fill: what comes from outside an image: red, green and blue, 0 to 255.
        num_bins: where all levels are whole numbers below it.

    Raises:
        InputError: if `num_ops` or `fill` is out of its range.
    """

    def __init__(
        self,
        num_ops: int,
        levels: _Range | Sequence[_Range],
        fill: Fill = BLACK,
        num_bins: int | None = None,
    ) -> None:
        super().__init__()
        if not is_whole(num_ops) or num_ops < 1:
            raise InputError(f"{type(self).__name__}'s num_ops is {num_ops}: give 1 or more, or leave the policy out.")
        if (
            not isinstance(fill, Sequence)
            or len(fill) != 3
            or not all(is_whole(value) and 0 <= value <= 255 for value in fill)
        ):
            raise InputError(f"The fill is {fill}: give red, green and blue, whole numbers from 0 to 255.")
        self._levels = levels
        self.num_ops = num_ops
        self.fill: Fill = (fill[0], fill[1], fill[2])
        self.num_bins = num_bins

    @property
    @abstractmethod
    def space(self) -> Space:
        """The operations that it draws from. No attribute, because it holds functions that cannot be pickled."""

    @property
    def levels(self) -> Sequence[_Range]:
        """The least and the greatest level of each operation of the space."""
        return [self._levels] * len(self.space) if isinstance(self._levels, tuple) else self._levels

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value}" for name, value in settings.items())

    @abstractmethod
    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """What happens to each sample: a pure function of the seed, the epoch and the sample's id, on the host.

        Args:
            seed: of the run.
            epoch: from 0.
            ids: (B,) sample ids.
        """

    def table(self, draws: OpDraws, height: int, width: int) -> Table:
        """The draws as what the operations read, for images of a size in pixels.

        Raises:
            InputError: if they cannot be this policy's.
        """
        return table_of(self.space, draws, height, width, self.fill, self.num_bins)

    def forward(self, images: Tensor, draws: OpDraws | None = None) -> Tensor:
        """The augmented images: new ones, on the same device.

        Args:
            images: (B, 3, H, W) uint8, best channels_last; they are not changed.
            draws: of these B samples; drawn anew for every image unless given, from torch's default generator, so that
                `torch.manual_seed` repeats them.

        Returns:
            (B, 3, H, W) uint8, channels_last.

        Raises:
            InputError: if the images are not as above, or the draws not this policy's for as many.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
            raise InputError(
                f"{type(self).__name__} was given {images.dtype} images of shape {tuple(images.shape)}: "
                "give uint8 images of shape (B, 3, H, W), before they are normalised."
            )
        if draws is None:
            seed = int(torch.randint(2**62, (), dtype=torch.int64))
            draws = self.draw(seed, 0, np.arange(len(images)))
        check_count(type(self).__name__, len(images), len(draws.ops))
        pixels = images.permute(0, 2, 3, 1)
        return run_operations(pixels, self.table(draws, *pixels.shape[1:3])).permute(0, 3, 1, 2)
