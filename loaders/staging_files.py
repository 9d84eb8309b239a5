"""A staged shard, mapped into memory while it is used; a lock on it keeps other processes from removing it."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

from loaders.mapped import Map, MappedFile

_IDLE_S = 1.0


class StagedFile(MappedFile):
    """A shard that may have yet to come, and may go again.

    Args:
        path: where it will be.
        size: in bytes.
        arrive: waits until it is there; raises what keeps it from coming.
    """

    def __init__(self, path: Path, size: int, arrive: Callable[[], None]) -> None:
        super().__init__(path, size)
        self._arrive = arrive
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
        self._used = time.monotonic()
        return self._map()

    def forget(self, *, if_idle: bool) -> None:
        """Lets it go, once nobody keeps its map; `if_idle` only where it was not asked for in the last second."""
        if not if_idle or time.monotonic() - self._used > _IDLE_S:
            self._mapped.pop("map", None)

    def _open(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                raise FileNotFoundError(f"{self.path} was removed meanwhile")
            # The map has a descriptor of its own for the same opening of the file, which keeps the lock.
            return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
