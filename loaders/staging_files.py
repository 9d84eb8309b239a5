"""A staged shard, mapped into memory while it is used; a lock on it keeps other processes from removing it."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.mapped import Map, MappedFile

_IDLE_S = 1.0


class StagedFile(MappedFile):
    """A shard that may have yet to come, and may go again.

    Args:
        path: where it will be.
        size: in bytes.
        is_whole: whether it is there and was held to its checksum.
        arrive: waits until it is; raises what keeps it from coming.
    """

    def __init__(self, path: Path, size: int, is_whole: Callable[[], bool], arrive: Callable[[], None]) -> None:
        super().__init__(path, size)
        self._is_whole, self._arrive = is_whole, arrive
        self._used = 0.0

    def hold(self) -> Map:
        """Its map, once it is there: it stays as long as that is kept."""
        while True:
            try:
                return self.hold_if_there()
            except FileNotFoundError:
                self._arrive()

    def hold_if_there(self) -> Map:
        """The same, without waiting. Raises FileNotFoundError where it is not there."""
        if not self._is_whole():
            raise FileNotFoundError(f"{self.path} is not there yet")
        self._used = time.monotonic()
        return self._map()

    def will_need(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Asks the system to read ahead, where the file is in use: what has just come is in memory anyway."""
        if "map" in self._mapped:
            super().will_need(starts, stops)

    def forget(self, *, if_idle: bool) -> None:
        """Lets it go, once nobody keeps its map; `if_idle` only where it was not asked for in the last second."""
        if not if_idle or time.monotonic() - self._used > _IDLE_S:
            self._mapped.pop("map", None)

    def _open(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            status = os.fstat(file.fileno())
            if status.st_size != self.size or not os.path.samestat(os.stat(self.path), status):
                raise FileNotFoundError(f"{self.path} was removed or cut meanwhile")
            # The map has a descriptor of its own for the same opening of the file, which keeps the lock.
            return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
