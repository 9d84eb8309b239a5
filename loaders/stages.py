"""Counts the seconds that each stage of loading works or waits, so that a run can say which one bounds it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class StageClock:
    """Sums seconds by stage, from any number of threads: stages that run on several threads count them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

    def seconds(self) -> Mapping[str, float]:
        """A copy of the sums."""
        with self._lock:
            return dict(self._seconds)
