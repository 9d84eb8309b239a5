"""What follows a batch's operations, normalising apart: draws of erasing and of mixing as numbers for one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.draws import EraseDraws, MixDraws


class Finish(NamedTuple):
    """One batch of B samples.

    Attributes:
        erased: (B, 4) int32: the erased box's top, left, bottom, right; zeros where there is none.
        colours: (B, 3) float32: what it is set to, normalised.
        mixing: (B, 6) int32: kind, partner, and the partner's box.
        weights: (B,) float32, of the sample itself.
    """

    erased: npt.NDArray[np.int32]
    colours: npt.NDArray[np.float32]
    mixing: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def finish_of(count: int, erase: EraseDraws | None, mix: MixDraws | None) -> Finish:
    """The draws of `count` samples; None for what does not happen."""
    erased, colours = np.zeros((count, 4), dtype=np.int32), np.zeros((count, 3), dtype=np.float32)
    mixing, weights = np.zeros((count, 6), dtype=np.int32), np.ones(count, dtype=np.float32)
    if erase is not None:
        erased[:], colours[:] = erase.boxes, erase.colours
    if mix is not None:
        mixing[:] = np.concatenate([mix.kind[:, None], mix.partner[:, None], mix.boxes], axis=1)
        weights[:] = mix.weight
    return Finish(erased, colours, mixing, weights)
