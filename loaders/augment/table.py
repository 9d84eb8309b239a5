"""A batch's draws as numbers that a kernel reads: what each sample's operations are, and what they are done with.

Built from a table of every operation, bin and sign, so that a batch costs the host one look-up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.augment.ops import SPACE, coefficients, magnitude_table
from loaders.draws import MixDraws, OpDraws

# What is done with a pixel: from BRIGHTNESS on by a table of 256 values, from CONTRAST on by the image's statistics.
IDENTITY, SHIFT, WARP, COLOR, SHARPNESS, BRIGHTNESS, POSTERIZE, SOLARIZE, CONTRAST, AUTO_CONTRAST, EQUALIZE = range(11)
NUM_PARAMETERS = 6
NUM_OPS = 2  # a sample, at most

_KINDS = {
    "Identity": IDENTITY,
    "ShearX": WARP,
    "ShearY": WARP,
    "TranslateX": SHIFT,
    "TranslateY": SHIFT,
    "Rotate": WARP,
    "Brightness": BRIGHTNESS,
    "Color": COLOR,
    "Contrast": CONTRAST,
    "Sharpness": SHARPNESS,
    "Posterize": POSTERIZE,
    "Solarize": SOLARIZE,
    "AutoContrast": AUTO_CONTRAST,
    "Equalize": EQUALIZE,
}


class Table(NamedTuple):
    """One batch of B samples.

    Attributes:
        kinds: (B, NUM_OPS) int32, of the constants above.
        parameters: (B, NUM_OPS, NUM_PARAMETERS) float32: a shift's columns and rows; a warp's two rows of coefficients;
            a blend's factor and the other image's; posterize's mask; solarize's threshold.
        mixing: (B, 6) int32: kind, partner, and the box's top, left, bottom, right.
        weights: (B,) float32, of the sample itself.
    """

    kinds: npt.NDArray[np.int32]
    parameters: npt.NDArray[np.float32]
    mixing: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def table_of(count: int, ops: OpDraws | None, mix: MixDraws | None, num_bins: int, size: tuple[int, int]) -> Table:
    """The table of a batch.

    Args:
        count: samples, B.
        ops: their operations, at most NUM_OPS each.
        mix: whom they are mixed with.
        num_bins: of the operations' magnitudes.
        size: height and width of the images in pixels.
    """
    kinds = np.zeros((count, NUM_OPS), dtype=np.int32)
    parameters = np.zeros((count, NUM_OPS, NUM_PARAMETERS), dtype=np.float32)
    if ops is not None:
        of_all = _of_all(num_bins, *size)
        used = ops.ops.shape[1]
        kinds[:, :used] = _KINDS_IN_ORDER[ops.ops]
        parameters[:, :used] = of_all[ops.ops, ops.bins, (ops.signs > 0).astype(np.int64)]
    if mix is None:
        return Table(kinds, parameters, np.zeros((count, 6), dtype=np.int32), np.ones(count, dtype=np.float32))
    mixing = np.concatenate([mix.kind[:, None], mix.partner[:, None], mix.boxes], axis=1).astype(np.int32)
    return Table(kinds, parameters, mixing, mix.weight)


_KINDS_IN_ORDER = np.array([_KINDS[operation.name] for operation in SPACE], dtype=np.int32)


@lru_cache(maxsize=16)
def _of_all(num_bins: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """(operations, bins, signs, NUM_PARAMETERS): the second of the signs is the positive one."""
    found = np.zeros((len(SPACE), num_bins, 2, NUM_PARAMETERS), dtype=np.float32)
    for op, operation in enumerate(SPACE):
        for magnitude_bin, magnitude in enumerate(magnitude_table(op, num_bins, height, width)):
            for positive in (False, True):
                signed = magnitude if positive or not operation.signed else -magnitude
                row = _parameters(operation.name, signed, height, width)
                found[op, magnitude_bin, int(positive), : len(row)] = row
    return found


def _parameters(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    kind = _KINDS[name]
    if kind == SHIFT:
        return (int(magnitude), 0) if name == "TranslateX" else (0, int(magnitude))
    if kind == WARP:
        return coefficients(name, magnitude, height, width)
    if kind in (COLOR, BRIGHTNESS, CONTRAST):
        return (1.0 + magnitude, 1.0 - (1.0 + magnitude))
    if kind == SHARPNESS:
        return (-magnitude,)
    if kind == POSTERIZE:
        dropped = 8 - int(magnitude)
        return ((0xFF >> dropped) << dropped,)
    return (255.0 * magnitude,) if kind == SOLARIZE else ()
