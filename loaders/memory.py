"""Host memory that is used again once nobody holds it: fresh memory costs the system more than much work on images."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_REFERENCES = 2


class ReusedArrays:
    """Arrays of one shape and type at a time, each given out again when no tensor, view or name of it is left.

    What is kept stays until another shape or type is taken. After a fork the child keeps nothing of its parent's.

    Args:
        kept: arrays whose memory is used again; one who holds more of them gets fresh memory.
        limit: bytes of all that are kept; what is beyond is fresh memory too.
    """

    def __init__(self, kept: int, limit: int = 2**62) -> None:
        self._kept, self._limit = kept, limit
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._arrays: list[npt.NDArray[Any]] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Memory of any content that nobody reads or writes; that of other shapes that is free is given up."""
        wanted = np.dtype(dtype)
        with self._lock:
            self._arrays = [array for array in self._arrays if array.shape == shape and array.dtype == wanted]
            for place in range(len(self._arrays)):
                # The list and the call itself; whatever shares the memory holds the array too.
                if sys.getrefcount(self._arrays[place]) == _REFERENCES:
                    return self._arrays[place]
            fresh = np.empty(shape, dtype=wanted)
            if len(self._arrays) < self._kept and (len(self._arrays) + 1) * fresh.nbytes <= self._limit:
                self._arrays.append(fresh)
            return fresh


_all: weakref.WeakSet[ReusedArrays] = weakref.WeakSet()


def _begin_all() -> None:
    # A thread that held a lock when the process forked is not there to release it.
    for arrays in list(_all):
        arrays._begin()


os.register_at_fork(after_in_child=_begin_all)
