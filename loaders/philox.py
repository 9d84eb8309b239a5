"""A counter-based random generator: the same key and counter give the same bits, in any order, on any machine.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), vectorised in
numpy. Every random draw of the project is one of its outputs at (seed; sample id, epoch, purpose, block), so a draw
belongs to a sample and to nothing else: not to a worker, a rank or a place in the batch. Where the compiled library is
there it draws the same words, tens of times faster.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from loaders.native.library import library, why_missing

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH_SHIFT = np.uint64(32)
_ROUNDS = 10


class Purpose(IntEnum):
    """What a draw is for: two purposes never share bits. Values are part of the format: never renumber them."""

    ORDER = 0
    WINDOW = 1
    CROP = 2
    FLIP = 3
    OPERATION = 4
    MIX = 5
    PARTNER = 6
    MODEL = 7
    STRENGTH = 8
    ERASE = 9


def philox4x32(counter: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """The 10-round bijection.

    Args:
        counter: (..., 4) uint64, each below 2**32.
        key: 64 bits; the low half is the first key word.

    Returns:
        (..., 4) uint64, each uniform in [0, 2**32).
    """
    c0, c1, c2, c3 = (counter[..., lane] for lane in range(4))
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _HIGH_SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HIGH_SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=-1)


def bits(
    seed: int, epoch: int, ids: npt.NDArray[np.int64], purpose: Purpose, count: int, *, start: int = 0
) -> npt.NDArray[np.uint64]:
    """`count` random 32-bit words for every sample.

    Args:
        seed: of the run, 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        ids: (N,) sample ids, 0 to 2**32 - 1.
        purpose: which draws these are.
        count: words a sample.
        start: words of each sample that are left out before these, a multiple of 4: the generator makes four at once.

    Returns:
        (N, count) uint64, each below 2**32.
    """
    first, blocks = start // 4, -(-count // 4)
    if why_missing():
        return _by_numpy(seed, epoch, ids, purpose, first, blocks)[:, :count]
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    words = np.empty((len(ids), 4 * blocks), dtype=np.uint64)
    library().twistnet_words(len(ids), ids.ctypes.data, seed, epoch, purpose, first, blocks, words.ctypes.data)
    return words[:, :count]


def _by_numpy(
    seed: int, epoch: int, ids: npt.NDArray[np.int64], purpose: Purpose, first: int, blocks: int
) -> npt.NDArray[np.uint64]:
    counter = np.empty((len(ids), blocks, 4), dtype=np.uint64)
    counter[..., 0] = np.asarray(ids, dtype=np.uint64)[:, None]
    counter[..., 1] = epoch
    counter[..., 2] = int(purpose)
    counter[..., 3] = np.arange(first, first + blocks, dtype=np.uint64)
    return philox4x32(counter, seed).reshape(len(ids), blocks * 4)


def uniforms(
    seed: int, epoch: int, ids: npt.NDArray[np.int64], purpose: Purpose, count: int, *, start: int = 0
) -> npt.NDArray[np.float64]:
    """`count` uniform numbers in (0, 1), neither end included, for every sample: (N, count) float64; `start` as
    `bits` has it."""
    return (bits(seed, epoch, ids, purpose, count, start=start).astype(np.float64) + 0.5) * 2.0**-32
