"""How much of a batch each of two decoders takes, so that both are done together."""

from __future__ import annotations

import threading

_NEWEST = 0.2  # weight of a batch among those before it


class Shares:
    """The share of the first one, from the rates at which both have worked so far. Safe to use from many threads."""

    def __init__(self) -> None:
        self._share = 0.5
        self._taken = self._all = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> float:
        """Share of all images so far that the first one took, 0 to 1."""
        with self._lock:
            return self._taken / max(self._all, 1)

    def first(self, count: int) -> int:
        """How many of `count` images the first one takes: of two or more never all or none, so that both are timed."""
        with self._lock:
            mine = round(self._share * count)
        return min(max(mine, 1), max(count - 1, 1)) if count else 0

    def measured(self, first: tuple[int, float], second: tuple[int, float]) -> None:
        """Notes images and seconds of both on a batch."""
        with self._lock:
            self._taken += first[0]
            self._all += first[0] + second[0]
            if first[0] and second[0] and first[1] > 0 and second[1] > 0:
                rates = first[0] / first[1], second[0] / second[1]
                self._share += _NEWEST * (rates[0] / sum(rates) - self._share)
