"""Colour jitter, and the three-augment policy that ends with it."""

from __future__ import annotations

import math

import numpy as np

from loaders import draws as sample_draws
from loaders.augment.policy import Policy
from loaders.augment.spaces import Magnitudes, Space, operation
from loaders.draws import Floats, Ints, OpDraws
from loaders.errors import InputError

_SIGMAS = (0.1, 2.0)  # pixels


def _factor_less_one(factors: Floats, _height: int, _width: int) -> Floats:
    return factors - 1.0


def _level(levels: Floats, _height: int, _width: int) -> Floats:
    return levels


def _always(magnitude: float) -> Magnitudes:
    return lambda levels, _height, _width: np.full_like(levels, magnitude)


_JITTER: Space = tuple(operation(name, _factor_less_one) for name in ("Brightness", "Contrast", "Color"))
_THREE: Space = (
    operation("Color", _always(-1.0))._replace(name="Grayscale"),
    operation("SolarizeFrom", _always(128.0)),
    operation("GaussianBlur", _level),
)


class ColorJitter(Policy):
    """Brightness, contrast and saturation, in an order and by factors drawn for every sample.

    As `torchvision.transforms.v2.ColorJitter` without its hue, which timm's `--color-jitter` leaves out too.

    Args:
        brightness: factors are uniform from 1 - this, but at least 0, to 1 + this; at least 0.
        contrast: likewise.
        saturation: likewise.

    Raises:
        InputError: if a value is out of its range.
    """

    def __init__(self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        self.strengths = (brightness, contrast, saturation)
        _check(self.strengths)
        super().__init__(len(_JITTER), [_reach(strength) for strength in self.strengths])

    @property
    def space(self) -> Space:
        return _JITTER

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """As `Policy.draw`; levels are factors."""
        ops, factors = _jitter(sample_draws.strengths(seed, epoch, ids, len(_JITTER)), self.strengths)
        return OpDraws(ops, factors, np.ones_like(ops))


class ThreeAugment(Policy):
    """Grayscale, solarize or a Gaussian blur, one of the three, then colour jitter: DeiT III's (Touvron et al. 2022).

    Solarize inverts the values from 128 on; the blur's standard deviation is uniform from 0.1 to 2 pixels. In
    images of less than 7 pixels a side the edge stands for what is beyond.

    Args:
        color_jitter: of brightness, contrast and saturation, as `ColorJitter`'s; at least 0.

    Raises:
        InputError: if it is out of its range.
    """

    def __init__(self, *, color_jitter: float = 0.3) -> None:
        self.strengths = (color_jitter,) * 3
        _check(self.strengths)
        super().__init__(1 + len(_JITTER), [_SIGMAS] * 3 + [_reach(strength) for strength in self.strengths])

    @property
    def space(self) -> Space:
        return (*_THREE, *_JITTER)

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """As `Policy.draw`; levels are standard deviations and factors."""
        draws = sample_draws.strengths(seed, epoch, ids, self.num_ops)
        ops, factors = _jitter(draws[:, 1:], self.strengths)
        first = np.floor(draws[:, :1, 0] * 3).astype(np.int64)
        sigmas = _SIGMAS[0] + (_SIGMAS[1] - _SIGMAS[0]) * draws[:, :1, 1]
        ops = np.concatenate((first, 3 + ops), axis=1)
        return OpDraws(ops, np.concatenate((sigmas, factors), axis=1), np.ones_like(ops))


def _jitter(draws: Floats, strengths: tuple[float, ...]) -> tuple[Ints, Floats]:
    """The three operations of (B, 3, n) draws in an order of each sample's own, and the factor of each."""
    order = np.argsort(draws[..., 0], axis=1)
    reach = np.array(strengths)[order]
    low, high = np.maximum(1.0 - reach, 0.0), 1.0 + reach
    return order, low + (high - low) * draws[..., 1]


def _reach(strength: float) -> tuple[float, float]:
    return max(1.0 - strength, 0.0), 1.0 + strength


def _check(strengths: tuple[float, ...]) -> None:
    for name, strength in zip(("brightness", "contrast", "saturation"), strengths, strict=True):
        if not (strength >= 0 and math.isfinite(strength)):
            raise InputError(f"Colour jitter's {name} is {strength}: give a finite number of at least 0.")
