"""A batch's draws as numbers that the operations read: what each sample's are, and what they are done with."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.augment import kinds
from loaders.augment.checks import check_ops
from loaders.augment.spaces import Space, parameters_of
from loaders.draws import Floats, Ints, OpDraws

Fill = tuple[int, int, int]


class Table(NamedTuple):
    """The operations of B samples.

    Attributes:
        kinds: (B, num_ops) int32 in one piece, of `loaders.augment.kinds`, in the order in which they are applied.
        parameters: (B, num_ops, NUM_PARAMETERS) float32 in one piece.
        fill: what comes from outside an image: red, green and blue, 0 to 255.
        possible: the kinds that other draws from the same space may have.
    """

    kinds: npt.NDArray[np.int32]
    parameters: npt.NDArray[np.float32]
    fill: Fill
    possible: frozenset[int]


def table_of(space: Space, draws: OpDraws, height: int, width: int, fill: Fill, num_bins: int | None = None) -> Table:
    """The table of a batch's draws.

    Args:
        space: that the draws are from.
        draws: of B samples.
        height: of the images in pixels.
        width: likewise.
        fill: red, green and blue, 0 to 255.
        num_bins: where all levels are whole numbers below it: then a batch is one look-up.

    Raises:
        InputError: if the draws cannot be from `space`.
    """
    check_ops(draws, len(space), num_bins)
    of_ops = np.array([operation.kind for operation in space], dtype=np.int32)
    possible = frozenset(operation.kind for operation in space)
    if num_bins is None:
        ops, levels, signs = draws.ops.reshape(-1), draws.levels.reshape(-1), draws.signs.reshape(-1)
        parameters = _parameters(space, ops, levels, signs, height, width)
    else:
        of_all = _of_all_bins(space, num_bins, height, width)
        parameters = of_all[draws.ops, draws.levels.astype(np.int64), (draws.signs > 0).astype(np.int64)]
    parameters = parameters.reshape(*draws.ops.shape, kinds.NUM_PARAMETERS)
    # In one piece whatever the draws' layout, which a look-up keeps: compiled code is given addresses.
    return Table(np.ascontiguousarray(of_ops[draws.ops]), np.ascontiguousarray(parameters), fill, possible)


@lru_cache(maxsize=16)
def _of_all_bins(space: Space, num_bins: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """(operations, bins, signs, NUM_PARAMETERS): the second of the signs is the positive one."""
    shape = (len(space), num_bins, 2)
    ops, levels, signs = (each.reshape(-1) for each in np.indices(shape))
    found = _parameters(space, ops, levels.astype(np.float64), 2 * signs - 1, height, width)
    return found.reshape(*shape, kinds.NUM_PARAMETERS)


def _parameters(
    space: Space, ops: Ints, levels: Floats, signs: Ints, height: int, width: int
) -> npt.NDArray[np.float32]:
    """(n, NUM_PARAMETERS), of n operations."""
    parameters = np.zeros((ops.size, kinds.NUM_PARAMETERS), dtype=np.float32)
    # Each operation's in one piece, so that a batch costs a few calls of numpy, not one a sample.
    order = np.argsort(ops, kind="stable")
    ends = np.cumsum(np.bincount(ops, minlength=len(space))).tolist()
    for operation, begin, end in zip(space, [0, *ends], ends, strict=False):
        where = order[begin:end]
        if len(where):
            magnitudes = operation.magnitudes(levels[where], height, width)
            if operation.signed:
                magnitudes = magnitudes * signs[where]
            parameters[where] = parameters_of(operation, magnitudes, height, width)
    return parameters
