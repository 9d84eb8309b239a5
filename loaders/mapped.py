"""A file mapped into memory: read without copies and without a handle a sample, in any process."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.native.library import library, why_missing

_LOOK_S = 1.0


class Map(NamedTuple):
    """A file's map; its address holds as long as this is kept.

    Attributes:
        mapping: the map.
        view: its bytes.
        address: where they begin in this process.
    """

    mapping: mmap.mmap
    view: memoryview
    address: int


class MappedFile:
    """A file mapped into memory, read-only, at its first use in a process. It pickles as its path.

    Args:
        path: of the file.
        size: in bytes; what is mapped.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._available, self._next_look = size, 0.0
        self._mapped: dict[str, Map] = {}

    def __reduce__(self) -> tuple[type[MappedFile], tuple[Path, int]]:
        return (MappedFile, (Path(os.path.abspath(self.path)), self.size))

    @property
    def view(self) -> memoryview:
        """Its bytes. Raises OSError where it has gone or became shorter."""
        return self.hold().view

    @property
    def address(self) -> int:
        """Where its bytes begin in this process, as long as this object is there. Raises as `view`."""
        return self.hold().address

    def hold(self) -> Map:
        """Its map. Raises as `view`."""
        return self._map()

    def read(self, start: int, stop: int) -> memoryview:
        """A copy of these bytes, read-only: what is decoded in Python could not outlive their end in the map.

        Raises:
            OSError: where the file has gone or was cut, or its disk fails.
        """
        copy = np.empty(stop - start, dtype=np.uint8)
        held = self.hold()
        if stop > self.available():
            raise OSError(self.was_cut)
        if why_missing():
            copy[:] = np.frombuffer(held.view[start:stop], dtype=np.uint8)
        elif not library().twistnet_copy(held.address + start, len(copy), copy.ctypes.data):
            raise OSError(self.was_cut)
        view: memoryview = copy.data
        return view.toreadonly()

    @property
    def was_cut(self) -> str:
        """What is said of bytes that are not there any more."""
        return f"{self.path} was cut meanwhile, or its disk fails"

    def available(self) -> int:
        """Bytes of the map that the file still has, looked up at most once a second.

        To touch what was cut off meanwhile would end the process with a bus error. A file that was removed stays whole.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_S
            with contextlib.suppress(OSError):
                self._available = min(self.size, os.stat(self.path).st_size)
        return self._available

    def release(self) -> None:
        """Takes the map's pages out of this process; they stay in the system's cache, and come back when touched."""
        found = self._mapped.get("map")
        if found and hasattr(mmap, "MADV_DONTNEED"):
            found.mapping.madvise(mmap.MADV_DONTNEED)

    def drop(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Takes these ranges of bytes out of this process and of the system's cache, as far as they are whole pages."""
        found = self._mapped.get("map")
        if not found or not hasattr(mmap, "MADV_DONTNEED") or not hasattr(os, "posix_fadvise"):
            return
        first = -(-starts // mmap.PAGESIZE) * mmap.PAGESIZE
        last = stops // mmap.PAGESIZE * mmap.PAGESIZE
        whole = last > first
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            for start, stop in zip(first[whole].tolist(), last[whole].tolist(), strict=True):
                found.mapping.madvise(mmap.MADV_DONTNEED, start, stop - start)  # the cache keeps what is mapped
                os.posix_fadvise(file.fileno(), start, stop - start, os.POSIX_FADV_DONTNEED)

    def will_need(self, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Asks the system to read these ranges of bytes ahead, by whole pages, neighbours in one request."""
        if not len(starts) or not hasattr(mmap, "MADV_WILLNEED"):
            return
        try:
            mapping = self._map().mapping
            for start, stop in _merged_pages(starts, stops):
                mapping.madvise(mmap.MADV_WILLNEED, start, stop - start)
        except OSError:
            return  # it was a hint: reading the sample says what is wrong with the file

    def _map(self) -> Map:
        found = self._mapped.get("map")
        if found is None:
            mapping = self._open()
            # Without a lock, which a fork could inherit locked: of two threads that come here at once, one's map stays.
            address = int(np.frombuffer(mapping, dtype=np.uint8).ctypes.data)
            found = self._mapped.setdefault("map", Map(mapping, memoryview(mapping), address))
        return found

    def _open(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self.size:
                raise OSError(self.was_cut)
            if sys.version_info >= (3, 13):
                return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ, trackfd=False)
            return mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)


def _merged_pages(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of whole pages that cover the given ones, in order, overlapping and adjacent ones joined."""
    page = mmap.PAGESIZE
    order = np.argsort(starts)
    first = starts[order] // page * page
    last = np.maximum.accumulate(-(-stops[order] // page) * page)
    begins = np.concatenate(([True], first[1:] > last[:-1]))
    ends = np.concatenate((begins[1:], [True]))
    return list(zip(first[begins].tolist(), last[ends].tolist(), strict=True))
