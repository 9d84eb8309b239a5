"""Which samples make up which batch: a pure function of (seed, epoch, step), with no state to save.

    positions of an epoch   0 1 2 ... n-1 | wrapped round to fill the last batch (not valid)
    shuffled to ids         permutation of (seed, epoch)
    step s                  positions [s * G, (s + 1) * G)         G: the global batch
    rank r of R             positions s * G + [r * G / R, (r + 1) * G / R)

An epoch holds every id exactly once. Where the global batch does not divide the number of samples, the last batch is
filled up with the epoch's first ids, marked as not valid: shapes stay static, every rank takes the same number of
steps, and loss and accuracy leave those samples out.

With repeated augmentation an epoch is a part of the set, each id `repeats` times with other draws, and `repeats` epochs
in a row, which share a permutation, are the whole set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError
from loaders.philox import Purpose, bits

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SHUFFLES = ("global", "window", "none")
MAX_SAMPLES = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The order of samples for all epochs.

    Attributes:
        num_samples: n, 1 to 2**32.
        global_batch: samples of one step over all ranks.
        shuffle: "global" (a uniform permutation), "window" (chunks in random order, then a shuffle inside windows, for
            sets larger than memory) or "none" (0, 1, 2, ...).
        seed: 0 to 2**64 - 1.
        chunk: consecutive ids that a window shuffle keeps together on disk.
        window: samples that a window shuffle mixes.
        repeats: how often a batch holds each of its samples (repeated augmentation: Hoffer et al. 2020, Berman et al.
            2019). Copies stand far from each other in a batch; where `repeats` does not divide it, it lacks up to
            `repeats` - 1 of their views: a few in a large batch, but every sample of a small one may lack some.

    Raises:
        InputError: for a value outside those limits.
    """

    num_samples: int
    global_batch: int
    shuffle: str = "global"
    seed: int = 0
    chunk: int = 1024
    window: int = 65536
    repeats: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= MAX_SAMPLES:
            raise InputError(f"a data set of {self.num_samples} samples cannot be ordered: 1 to 2**32 can.")
        if self.global_batch < 1:
            raise InputError(f"a global batch of {self.global_batch} is too small: take at least 1.")
        if self.shuffle not in SHUFFLES:
            raise InputError(f"shuffle {self.shuffle!r} is unknown: choose one of {', '.join(SHUFFLES)}.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed {self.seed} is out of range: take 0 to 2**64 - 1.")
        if self.chunk < 1 or self.window < 1:
            raise InputError(f"chunk {self.chunk} and window {self.window} must both be at least 1.")
        most = min(self.global_batch, self.num_samples, MAX_SAMPLES // self.num_samples)
        if not 1 <= self.repeats <= most:
            raise InputError(
                f"{self.repeats} repeats of {self.num_samples} samples in batches of {self.global_batch} are "
                f"impossible: take 1 to {most}."
            )

    def __len__(self) -> int:
        """Steps of an epoch: its samples, each counted once, divided by those of a batch, rounded up."""
        longest = -(-self.num_samples // self.repeats)
        return -(-longest // self._distinct)

    @property
    def _distinct(self) -> int:
        """Samples of a global batch, each counted once."""
        return -(-self.global_batch // self.repeats)

    def batch(self, epoch: int, step: int) -> tuple[Ints, Bools]:
        """The ids of one global batch.

        Args:
            epoch: 0 to 2**32 - 1.
            step: 0 to len(self) - 1.

        Returns:
            (G,) int64 ids, and (G,) bool that is False on the filling of the last batch.
        """
        positions, valid = self._positions(epoch, step)
        return self._ids(epoch // self.repeats, positions), valid

    def positions(self, epoch: int, step: int) -> Ints:
        """Where the ids of one global batch stand in the permutation that the epoch is a part of: (G,) int64."""
        return self._positions(epoch, step)[0]

    def _positions(self, epoch: int, step: int) -> tuple[Ints, Bools]:
        if not 0 <= epoch < 2**32:
            raise InputError(f"epoch {epoch} is out of range: take 0 to 2**32 - 1.")
        if not 0 <= step < len(self):
            raise InputError(f"step {step} is outside the epoch: it has {len(self)} steps, from 0.")
        part = epoch % self.repeats
        first, end = (self.num_samples * each // self.repeats for each in (part, part + 1))
        places = step * self._distinct + np.arange(self.global_batch) % self._distinct
        return first + places % (end - first), places < end - first

    def slice(self, epoch: int, step: int, rank: int, world_size: int) -> tuple[Ints, Bools, Ints]:
        """Rank `rank`'s part of `batch(epoch, step)`: the slices of all ranks, in order, are the global batch.

        Returns:
            Ids and validity as there, and (G / world_size,) int64 keys of the draws: the ids themselves, and another
            number for each further copy of a sample.
        """
        ids, valid = self.batch(epoch, step)
        share, rest = divmod(self.global_batch, world_size)
        if rest:
            raise InputError(f"a global batch of {self.global_batch} does not divide over {world_size} ranks evenly.")
        mine = slice(rank * share, (rank + 1) * share)
        copies = np.arange(self.global_batch)[mine] // self._distinct
        return ids[mine], valid[mine], ids[mine] + copies * self.num_samples

    def chunks(self, epoch: int, positions: Ints) -> Ints:
        """The chunks that a window shuffle mixes in the windows that some positions lie in.

        Args:
            epoch: of whole passes over the set: that of `batch` divided by `repeats`.
            positions: as `positions` gives them.

        Returns:
            Their numbers, ascending; chunk k is of the ids from k * `chunk` on.
        """
        ends = np.unique(positions // self.window) * self.window
        chunks = _chunk_order(self.num_samples, self.seed, epoch, self.chunk)
        first = np.searchsorted(chunks.starts, ends, side="right") - 1
        last = np.searchsorted(chunks.starts, np.minimum(ends + self.window, self.num_samples) - 1, side="right") - 1
        places = np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)])
        return np.unique(chunks.first_ids[places] // self.chunk)

    def _ids(self, epoch: int, positions: Ints) -> Ints:
        if self.shuffle == "none":
            return positions
        if self.shuffle == "global":
            return _permutation(self.num_samples, self.seed, epoch, Purpose.ORDER)[positions]
        chunks = _chunk_order(self.num_samples, self.seed, epoch, self.chunk)
        return _lookup(positions, self.window, lambda index: self._window(epoch, index, chunks))

    def _window(self, epoch: int, index: int, chunks: _Chunks) -> Ints:
        first = index * self.window
        positions = np.arange(first, min(first + self.window, self.num_samples))
        return _shuffled_window(self.seed, epoch, first, len(positions), chunks)


def _lookup(positions: Ints, window: int, ids_of: Callable[[int], Ints]) -> Ints:
    """Ids at `positions`, asking for each window that they touch once."""
    result = np.empty_like(positions)
    windows = positions // window
    for index in np.unique(windows):
        here = windows == index
        result[here] = ids_of(int(index))[positions[here] - index * window]
    return result


@functools.lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int, purpose: Purpose) -> Ints:
    """A uniform permutation of 0 to n - 1: the ids sorted by their random 64-bit keys."""
    keys = np.empty(n, dtype=np.uint64)
    for start in range(0, n, 1 << 18):  # in pieces, because the generator's working space is many times the keys'
        piece = np.arange(start, min(start + (1 << 18), n))
        words = bits(seed, epoch, piece, purpose, 2)
        keys[piece] = (words[:, 0] << np.uint64(32)) | words[:, 1]
    return _frozen(np.argsort(keys, kind="stable"))


@dataclass(frozen=True, slots=True, eq=False)
class _Chunks:
    """Chunks of consecutive ids in an epoch's order; `starts[k]` is the position of the k-th one's first sample."""

    first_ids: Ints
    starts: Ints


@functools.lru_cache(maxsize=4)
def _chunk_order(n: int, seed: int, epoch: int, chunk: int) -> _Chunks:
    order = _permutation(-(-n // chunk), seed, epoch, Purpose.WINDOW)
    lengths = np.minimum((order + 1) * chunk, n) - order * chunk
    return _Chunks(_frozen(order * chunk), _frozen(np.cumsum(lengths) - lengths))


@functools.lru_cache(maxsize=4)
def _shuffled_window(seed: int, epoch: int, first: int, count: int, chunks: _Chunks) -> Ints:
    positions = np.arange(first, first + count)
    which = np.searchsorted(chunks.starts, positions, side="right") - 1
    ids = chunks.first_ids[which] + positions - chunks.starts[which]
    words = bits(seed, epoch, ids, Purpose.ORDER, 2)
    return _frozen(ids[np.argsort((words[:, 0] << np.uint64(32)) | words[:, 1], kind="stable")])


def _frozen(array: Ints) -> Ints:
    array.setflags(write=False)
    return array
