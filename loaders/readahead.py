"""Tells a store what will be read soon, as long as that helps."""

from __future__ import annotations

import resource

import numpy as np
import numpy.typing as npt

from loaders.types import Store

_BATCHES = 32


class ReadAhead:
    """Hints for a store's batches while this process waits for disks.

    A hint is a call of the system for every sample, which costs more than all other book-keeping of a batch; where the
    set lies in memory it does nothing. So hints end after some batches, and begin again once the process had to wait
    for a page that was not in memory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waits = _waits()
        self._left = _BATCHES

    def soon(self, samples: npt.NDArray[np.int64]) -> None:
        """To be called for every batch, `look_ahead` batches before it is consumed."""
        waits = _waits()
        if waits > self._waits:
            self._waits, self._left = waits, _BATCHES
        if self._left:
            self._left -= 1
            self._store.hint(samples)


def _waits() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
