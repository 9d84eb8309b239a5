"""RandAugment as torchvision and as timm have it, and TrivialAugment."""

from __future__ import annotations

import math

import numpy as np

from loaders import draws as sample_draws
from loaders.augment.checks import is_whole
from loaders.augment.policy import BLACK, Policy
from loaders.augment.spaces import Space, torchvision_space, wide_space
from loaders.augment.table import Fill
from loaders.augment.timm_space import MAX_LEVEL, timm_space
from loaders.draws import Ints, OpDraws
from loaders.errors import InputError

# ImageNet's mean colour, which timm's training fills with.
_MEAN_COLOUR: Fill = (124, 116, 104)


class RandAugment(Policy):
    """RandAugment (Cubuk et al. 2020) as `torchvision.transforms.v2.RandAugment`: nearest pixel.

    Args:
        num_ops: operations a sample, one after the other, each drawn uniformly of the 14; at least 1.
        magnitude: the bin of all of them, 0 to `num_bins` - 1.
        num_bins: steps from the weakest to the strongest magnitude; at least 2.
        fill: what comes from outside an image: red, green and blue, 0 to 255.

    Raises:
        InputError: if a value is out of its range.
    """

    num_bins: int

    def __init__(self, *, num_ops: int = 2, magnitude: int = 9, num_bins: int = 31, fill: Fill = BLACK) -> None:
        _check_bins("RandAugment", num_bins)
        if not is_whole(magnitude) or not 0 <= magnitude < num_bins:
            raise InputError(
                f"RandAugment's magnitude is {magnitude}: give a whole number from 0 to {num_bins - 1}, since there "
                f"are {num_bins} bins."
            )
        super().__init__(num_ops, (0.0, num_bins - 1.0), fill, num_bins)
        self.magnitude = magnitude

    @property
    def space(self) -> Space:
        return torchvision_space(self.num_bins)

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """As `Policy.draw`: every operation is equally likely, and so is either sign."""
        ops, signs = sample_draws.operations(seed, epoch, ids, self.num_ops, len(self.space))
        return OpDraws(ops, np.full(ops.shape, float(self.magnitude)), signs)


class TrivialAugment(Policy):
    """One operation a sample at any strength: TrivialAugment (Müller and Hutter 2021), as
    `torchvision.transforms.v2.TrivialAugmentWide`.

    Args:
        num_bins: steps from the weakest to the strongest magnitude, equally likely; at least 2.
        fill: what comes from outside an image: red, green and blue, 0 to 255.

    Raises:
        InputError: if a value is out of its range.
    """

    num_bins: int

    def __init__(self, *, num_bins: int = 31, fill: Fill = BLACK) -> None:
        _check_bins("TrivialAugment", num_bins)
        super().__init__(1, (0.0, num_bins - 1.0), fill, num_bins)

    @property
    def space(self) -> Space:
        return wide_space(self.num_bins)

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """As `Policy.draw`: every operation, bin and sign is equally likely."""
        ops, signs = sample_draws.operations(seed, epoch, ids, 1, len(self.space))
        shares = sample_draws.strengths(seed, epoch, ids, 1)[..., 0]
        return OpDraws(ops, np.floor(shares * self.num_bins), signs)


class TimmRandAugment(Policy):
    """RandAugment as `timm.data.rand_augment_transform` draws it, whose names and meanings these arguments have.

    Draws and magnitudes are timm's. Pixels are torchvision's where its rounding is another than that of Pillow, which
    timm uses; geometric operations interpolate linearly, where timm takes linear or cubic at random unless told.

    Args:
        magnitude: `m`: 0 to 10.
        num_ops: `n`: operations a sample, one after the other; at least 1.
        magnitude_std: `mstd`: standard deviation of each magnitude, at least 0; above 100: uniform up to `magnitude`.
        increasing: `inc`: whether a higher magnitude is always a stronger change.
        probability: `p`: with which each operation that was drawn is applied, 0 to 1.
        interpolated: False takes the nearest pixel, which is faster.
        fill: what comes from outside an image: red, green and blue, 0 to 255.

    Raises:
        InputError: if a value is out of its range.
    """

    def __init__(
        self,
        *,
        magnitude: float = MAX_LEVEL,
        num_ops: int = 2,
        magnitude_std: float = 0.0,
        increasing: bool = False,
        probability: float = 0.5,
        interpolated: bool = True,
        fill: Fill = _MEAN_COLOUR,
    ) -> None:
        if not 0 <= magnitude <= MAX_LEVEL:
            raise InputError(f"timm's RandAugment was given the magnitude {magnitude}: give 0 to {MAX_LEVEL:.0f}.")
        if not magnitude_std >= 0:
            raise InputError(f"timm's RandAugment was given the magnitude_std {magnitude_std}: give at least 0.")
        if not 0 <= probability <= 1:
            raise InputError(f"timm's RandAugment was given the probability {probability}: give 0 to 1.")
        super().__init__(num_ops, (0.0, MAX_LEVEL), fill)
        self.increasing = increasing
        self.interpolated = interpolated
        self.magnitude = magnitude
        self.magnitude_std = magnitude_std
        self.probability = probability

    @property
    def space(self) -> Space:
        return timm_space(increasing=self.increasing, interpolated=self.interpolated)

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """As `Policy.draw`: an operation is applied with the probability given, at a level of its own."""
        nothing = len(self.space) - 1
        ops, signs = sample_draws.operations(seed, epoch, ids, self.num_ops, nothing)
        first, second, applied = np.moveaxis(sample_draws.strengths(seed, epoch, ids, self.num_ops), -1, 0)
        if self.magnitude_std > 100:
            levels = self.magnitude * first
        else:  # Box and Muller's
            normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * math.pi * second)
            levels = np.clip(self.magnitude + self.magnitude_std * normal, 0.0, MAX_LEVEL)
        return OpDraws(np.where(applied < self.probability, ops, nothing), levels, signs)


def _check_bins(name: str, num_bins: int) -> None:
    if not is_whole(num_bins) or num_bins < 2:
        raise InputError(f"{name}'s num_bins is {num_bins}: give a whole number of at least 2; 31 is usual.")
