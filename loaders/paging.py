"""What of a mapped set is in memory: read ahead of its use and, where the set is larger than memory, given back after.

Left to itself, the system drops what was read ahead before what was used, though an epoch needs nothing twice: a set
that is a little larger than memory is then read many times over, in every epoch.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.cores import usable_memory
from loaders.order import Order
from loaders.types import Store

_FITS = 0.6  # of the memory: processes need some too
_BATCHES = 32
# Of files in this process's memory. Else the whole set would count as its own, though it lies in the system's cache:
# around each byte that is touched the system maps up to two megabytes.
_MAPPED_BYTES = 1 << 27
_STATM = Path("/proc/self/statm")

_Ints = npt.NDArray[np.int64]


class _Block(NamedTuple):
    """Consecutive steps whose samples a window shuffle has mixed: about as many as a window has."""

    epoch: int
    number: int
    asked: bool  # for its samples, while the block before it was read
    following: _Ints  # ids of the block after it, as they lie on disk


class Paging:
    """Tells a store what will be read soon and what no more.

    A set that fits is read ahead only while the process waits for disks: a hint is a call of the system for every
    sample, more than all other book-keeping of a batch. One that does not fit is read ahead always: the coming batch,
    or with a window shuffle the share of the coming window that this rank will read, in the order of the disk, if two
    windows take no more than half of what fits.

    Args:
        store: the set.
        order: whose windows are read ahead.
        rank: this process's, of `world_size`.
        world_size: processes.
        memory: in bytes; what this machine or cgroup has unless given.
    """

    def __init__(self, store: Store, order: Order, rank: int, world_size: int, memory: int | None = None) -> None:
        self._store, self._order, self._rank, self._world_size = store, order, rank, world_size
        memory = usable_memory() if memory is None else memory
        room = _FITS * memory
        self._sample_bytes = store.num_bytes / len(store)
        self.fits = store.num_bytes <= room
        self._sizes = f"{store.num_bytes / 1e9:,.1f} GB do not fit in the {memory / 1e9:,.1f} GB of memory"
        self._by_window = order.shuffle == "window" and 2 * order.window * self._sample_bytes <= room / 2
        self._block: _Block | None = None
        self._waits, self._left = _waits(), _BATCHES
        self._other_files = _files_in_memory()

    @property
    def reason(self) -> str:
        """What is done about a set that does not fit, for people to read; "" where it does."""
        return "" if self.fits else f"images leave memory after use, as {self._sizes}"

    def before(self, epoch: int, step: int, ids: _Ints) -> None:
        """To be called for every batch in the order of steps, some batches before it is read."""
        if not self.fits:
            self._store.hint(self._window_share(epoch, step, ids) if self._by_window else ids)
            return
        waits = _waits()
        if waits > self._waits:
            self._waits, self._left = waits, _BATCHES
        if self._left:
            self._left -= 1
            self._store.hint(ids)

    def after(self, ids: _Ints) -> None:
        """To be called for every batch once it is decoded, by any thread."""
        if not self.fits:
            self._store.release(ids)
            return
        if _files_in_memory() > self._other_files + _MAPPED_BYTES:
            self._store.release()
            self._other_files = _files_in_memory()

    def _window_share(self, epoch: int, step: int, ids: _Ints) -> _Ints:
        steps = max(1, self._order.window * self._order.repeats // self._order.global_batch)
        number, place = divmod(step, steps)
        block = self._block
        if block is None or (block.epoch, block.number) != (epoch, number):
            asked = block is not None and (block.epoch, block.number) == (epoch, number - 1)
            block = _Block(epoch, number, asked, self._ids_of(epoch, (number + 1) * steps, (number + 2) * steps))
            self._block = block
        share = block.following[len(ids) * place : len(ids) * (place + 1)]
        return share if block.asked else np.concatenate([ids, share])

    def _ids_of(self, epoch: int, first: int, end: int) -> _Ints:
        """Sorted ids of this rank's batches of some steps, as far as the epoch has them."""
        steps = range(first, min(end, len(self._order)))
        batches = [self._order.slice(epoch, step, self._rank, self._world_size)[0] for step in steps]
        return np.sort(np.concatenate(batches)) if batches else np.empty(0, dtype=np.int64)


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _files_in_memory() -> int:
    """Bytes of mapped files that count as this process's, its libraries too; 0 where the system does not say."""
    try:
        return int(_STATM.read_bytes().split()[2]) * resource.getpagesize()
    except OSError:
        return 0
