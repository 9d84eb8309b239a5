"""timm's space of RandAugment: its operations, and its levels of 0 to 10."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from loaders.augment.spaces import Magnitudes, Operation, Space, operation
from loaders.draws import Floats

MAX_LEVEL = 10.0


def _share(of: float, plus: float = 0.0) -> Magnitudes:
    return lambda levels, _height, _width: levels / MAX_LEVEL * of + plus


def _whole(of: float, *, falling: bool = False) -> Magnitudes:
    def magnitudes(levels: Floats, _height: int, _width: int) -> Floats:
        steps = np.trunc(levels / MAX_LEVEL * of)
        return of - steps if falling else steps

    return magnitudes


def _of_width(levels: Floats, _height: int, width: int) -> Floats:
    return levels / MAX_LEVEL * 0.45 * width


def _of_height(levels: Floats, height: int, _width: int) -> Floats:
    return levels / MAX_LEVEL * 0.45 * height


@lru_cache(maxsize=4)
def timm_space(*, increasing: bool, interpolated: bool) -> Space:
    """The 15 operations of `timm.data.rand_augment_transform`, and last the one that changes nothing.

    Args:
        increasing: whether a higher level is always a stronger change, as `inc1` in timm's configuration asks.
        interpolated: whether geometric operations interpolate, as timm's do; else they take the nearest pixel.
    """

    def moved(name: str, magnitudes: Magnitudes) -> Operation:
        return operation(name, magnitudes, signed=True, interpolated=interpolated)

    # A factor of 0.1 to 1.9, here as its distance from 1: growing with the level, or either way from none.
    change = _share(0.9) if increasing else _share(1.8, -0.9)
    enhanced = [operation(name, change, signed=increasing) for name in ("Color", "Contrast", "Brightness", "Sharpness")]
    return (
        operation("AutoContrast", _share(0.0)),
        operation("Equalize", _share(0.0)),
        operation("Invert", _share(0.0)),
        moved("Rotate", _share(30.0)),
        operation("Posterize", _whole(4.0, falling=increasing)),
        operation("SolarizeFrom", _whole(256.0, falling=increasing)),
        operation("SolarizeAdd", _whole(110.0)),
        *enhanced,
        moved("ShearX", _share(0.3)),
        moved("ShearY", _share(0.3)),
        moved("TranslateX", _of_width),
        moved("TranslateY", _of_height),
        operation("Identity", _share(0.0)),
    )
