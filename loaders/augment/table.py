"""A batch's draws as numbers that the operations read: what each sample's are, and what they are done with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.augment import kinds
from loaders.augment.spaces import Space, parameters_of
from loaders.draws import OpDraws

Fill = tuple[int, int, int]


class Table(NamedTuple):
    """The operations of B samples.

    Attributes:
        kinds: (B, num_ops) int32, of `loaders.augment.kinds`, in the order in which they are applied.
        parameters: (B, num_ops, NUM_PARAMETERS) float32.
        fill: what comes from outside an image: red, green and blue, 0 to 255.
        possible: the kinds that other draws from the same space may have.
    """

    kinds: npt.NDArray[np.int32]
    parameters: npt.NDArray[np.float32]
    fill: Fill
    possible: frozenset[int]


def table_of(space: Space, draws: OpDraws, height: int, width: int, fill: Fill) -> Table:
    """The table of a batch's draws.

    Args:
        space: that the draws are from.
        draws: of B samples.
        height: of the images in pixels.
        width: likewise.
        fill: red, green and blue, 0 to 255.
    """
    shape = draws.ops.shape
    ops, levels, signs = draws.ops.reshape(-1), draws.levels.reshape(-1), draws.signs.reshape(-1)
    parameters = np.zeros((ops.size, kinds.NUM_PARAMETERS), dtype=np.float32)
    # Each operation's in one piece, so that the batch costs a few calls of numpy, not one a sample.
    order = np.argsort(ops, kind="stable")
    ends = np.cumsum(np.bincount(ops, minlength=len(space)))
    for operation, end, begin in zip(space, ends.tolist(), [0, *ends.tolist()], strict=False):
        where = order[begin:end]
        if len(where):
            magnitudes = operation.magnitudes(levels[where], height, width)
            if operation.signed:
                magnitudes = magnitudes * signs[where]
            parameters[where] = parameters_of(operation, magnitudes, height, width)
    of_ops = np.array([operation.kind for operation in space], dtype=np.int32)
    possible = frozenset(operation.kind for operation in space)
    return Table(of_ops[draws.ops], parameters.reshape(*shape, kinds.NUM_PARAMETERS), fill, possible)
