"""Spaces of operations: what each is called, how a drawn level becomes its magnitude, and that its parameters.

torchvision's two are here, timm's in timm_space.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from loaders.augment import kinds
from loaders.draws import Floats

_Columns: TypeAlias = Sequence[Floats | float]
# Of (n,) signed magnitudes and the images' height and width: columns of parameters.
Parameters: TypeAlias = Callable[[Floats, int, int], _Columns]
# Of (n,) levels and the images' height and width: (n,) magnitudes, not signed.
Magnitudes: TypeAlias = Callable[[Floats, int, int], Floats]


class Operation(NamedTuple):
    """An entry of a space."""

    name: str
    kind: int
    parameters: Parameters
    magnitudes: Magnitudes
    signed: bool  # whether the magnitude's sign is drawn


Space: TypeAlias = tuple[Operation, ...]


def parameters_of(operation: Operation, magnitudes: Floats, height: int, width: int) -> npt.NDArray[np.float32]:
    """(n, NUM_PARAMETERS) float32, of (n,) signed magnitudes."""
    found = np.zeros((len(magnitudes), kinds.NUM_PARAMETERS), dtype=np.float32)
    for place, column in enumerate(operation.parameters(magnitudes, height, width)):
        found[:, place] = column
    return found


def _warp_rows(row_x: _Columns, row_y: _Columns, height: int, width: int) -> list[Floats]:
    """Coefficients about the centre, over half the image's sides: rounded where torchvision rounds them."""
    halves = [np.float32(width / 2)] * 3 + [np.float32(height / 2)] * 3
    columns = [np.asarray(column, dtype=np.float32) for column in (*row_x, *row_y)]
    return [np.asarray(column / half) for column, half in zip(columns, halves, strict=True)]


def _shear_x(slope: Floats, height: int, width: int) -> _Columns:
    return _warp_rows((1.0, slope, slope * (height / 2)), (0.0, 1.0, 0.0), height, width)


def _shear_y(slope: Floats, height: int, width: int) -> _Columns:
    return _warp_rows((1.0, 0.0, 0.0), (slope, 1.0, slope * (width / 2)), height, width)


def _rotate(degrees: Floats, height: int, width: int) -> _Columns:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _warp_rows((cos, -sin, 0.0), (sin, cos, 0.0), height, width)


def _rotate_bilinear(degrees: Floats, height: int, width: int) -> _Columns:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _blend(change: Floats, _height: int, _width: int) -> _Columns:
    return 1.0 + change, 1.0 - (1.0 + change)


def _posterize(bits: Floats, _height: int, _width: int) -> _Columns:
    return (256.0 - np.exp2(8 - np.trunc(bits)),)  # the highest of eight


def _gaussian(sigmas: Floats, _height: int, _width: int) -> _Columns:
    """Weights of a Gaussian of standard deviations in pixels, as `torchvision.transforms.v2.functional.gaussian_blur`
    with a kernel of 13 has them."""
    distances = np.arange(kinds.BLUR_RADIUS + 1)
    weights = np.exp(-0.5 * (distances / sigmas[:, None]) ** 2)
    return list((weights / (2 * weights.sum(axis=1) - weights[:, 0])[:, None]).T)


# Every operation's kind and parameters by its name. Names are torchvision's, and timm's for what only it has.
_SHAPES: dict[str, tuple[int, Parameters]] = {
    "Identity": (kinds.IDENTITY, lambda *_: ()),
    "ShearX": (kinds.WARP, _shear_x),  # a slope, about the top edge: a tangent, not an angle
    "ShearY": (kinds.WARP, _shear_y),
    "TranslateX": (kinds.SHIFT, lambda pixels, _, __: (np.trunc(pixels), 0.0)),
    "TranslateY": (kinds.SHIFT, lambda pixels, _, __: (0.0, np.trunc(pixels))),
    "Rotate": (kinds.WARP, _rotate),  # degrees counter-clockwise
    "Brightness": (kinds.BRIGHTNESS, lambda change, _, __: (1.0 + change,)),
    "Color": (kinds.COLOR, _blend),
    "Contrast": (kinds.CONTRAST, _blend),
    "Sharpness": (kinds.SHARPNESS, lambda change, _, __: (-change,)),
    "Posterize": (kinds.POSTERIZE, _posterize),
    "Solarize": (kinds.SOLARIZE, lambda threshold, _, __: (255.0 * threshold,)),
    "AutoContrast": (kinds.AUTO_CONTRAST, lambda *_: ()),
    "Equalize": (kinds.EQUALIZE, lambda *_: ()),
    "Invert": (kinds.SOLARIZE, lambda *_: (0.0,)),
    "SolarizeFrom": (kinds.SOLARIZE, lambda value, _, __: (value,)),
    "SolarizeAdd": (kinds.SOLARIZE_ADD, lambda added, _, __: (added, 128.0)),
    "GaussianBlur": (kinds.BLUR, _gaussian),
}
# timm's, which take the pixel between four about the corner.
_BILINEAR: dict[str, Parameters] = {
    "ShearX": lambda slope, _, __: (1.0, slope, 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda slope, _, __: (1.0, 0.0, 0.0, slope, 1.0, 0.0),
    "TranslateX": lambda pixels, _, __: (1.0, 0.0, pixels, 0.0, 1.0, 0.0),
    "TranslateY": lambda pixels, _, __: (1.0, 0.0, 0.0, 0.0, 1.0, pixels),
    "Rotate": _rotate_bilinear,
}


def operation(name: str, magnitudes: Magnitudes, *, signed: bool = False, interpolated: bool = False) -> Operation:
    """An operation of the tables above.

    Args:
        name: a key of them.
        magnitudes: of levels.
        signed: whether the magnitude's sign is drawn.
        interpolated: whether a geometric one takes the value between four pixels instead of the nearest.
    """
    kind, parameters = (kinds.BILINEAR, _BILINEAR[name]) if interpolated else _SHAPES[name]
    return Operation(name, kind, parameters, magnitudes, signed)


def _none(levels: Floats, _height: int, _width: int) -> Floats:
    return np.zeros_like(levels)


@lru_cache(maxsize=64)
def _steps(start: float, end: float, num_bins: int) -> Floats:
    return np.array(torch.linspace(start, end, num_bins).tolist())  # torchvision's float32


def _binned(start: float, end: float, num_bins: int, side: int | None = None) -> Magnitudes:
    """Bins from `start` to `end`, which is a share of the height (side 0) or the width (side 1) where that is given."""

    def magnitudes(levels: Floats, height: int, width: int) -> Floats:
        unit = 1.0 if side is None else (height, width)[side]
        return np.asarray(_steps(start, end * unit, num_bins)[levels.astype(np.int64)])

    return magnitudes


def _bits(lost: int, num_bins: int) -> Magnitudes:
    def magnitudes(levels: Floats, _height: int, _width: int) -> Floats:
        steps = (8 - torch.arange(num_bins) / ((num_bins - 1) / lost)).round()
        return np.asarray(steps.double().numpy()[levels.astype(np.int64)])

    return magnitudes


# The paper's 150 pixels of AutoAugment's 331-pixel images, scaled to these.
_MAX_SHIFT = 150.0 / 331.0


@lru_cache(maxsize=16)
def torchvision_space(num_bins: int) -> Space:
    """The 14 operations of `torchvision.transforms.v2.RandAugment` (Cubuk et al. 2020), in its order; levels are bins
    from 0 to `num_bins` - 1."""
    return _of_torchvision(num_bins, 0.3, (0.0, _MAX_SHIFT), (0, 1), 30.0, 0.9, 4)


@lru_cache(maxsize=16)
def wide_space(num_bins: int) -> Space:
    """The same operations with the magnitudes of `torchvision.transforms.v2.TrivialAugmentWide` (Müller and Hutter
    2021): shifts of up to 32 pixels whatever the images' size."""
    return _of_torchvision(num_bins, 0.99, (0.0, 32.0), (None, None), 135.0, 0.99, 6)


def _of_torchvision(
    num_bins: int,
    slope: float,
    shift: tuple[float, float],
    sides: tuple[int | None, int | None],
    degrees: float,
    change: float,
    bits: int,
) -> Space:
    to = {
        "ShearX": slope,
        "ShearY": slope,
        "Rotate": degrees,
        "Brightness": change,
        "Color": change,
        "Contrast": change,
        "Sharpness": change,
    }
    down, right = sides
    return (
        operation("Identity", _none),
        *(operation(name, _binned(0.0, to[name], num_bins), signed=True) for name in ("ShearX", "ShearY")),
        operation("TranslateX", _binned(*shift, num_bins, right), signed=True),
        operation("TranslateY", _binned(*shift, num_bins, down), signed=True),
        *(
            operation(name, _binned(0.0, to[name], num_bins), signed=True)
            for name in ("Rotate", "Brightness", "Color", "Contrast", "Sharpness")
        ),
        operation("Posterize", _bits(bits, num_bins)),
        operation("Solarize", _binned(1.0, 0.0, num_bins)),
        operation("AutoContrast", _none),
        operation("Equalize", _none),
    )
