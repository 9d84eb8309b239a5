"""Ends a rank that hangs, after it has written where it stands: the others wait for it in vain, and end alike."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

EXIT_CODE = 124  # as timeout(1) ends
_TICKS = 60  # a limit


class Watchdog:
    """Ends the process with `EXIT_CODE` where nothing has been reported for a time.

    It counts ticks of its own rather than asking a clock: a process that was stopped for an hour, or a clock that was
    set, is no hang.

    Args:
        folder: the run's, where hang.rank<r>.txt is written with the stacks of all threads.
        rank: of this process.
        limit_s: the longest time between two reports in seconds; 0 watches nothing.
        end: what ends the process, given the exit code.
    """

    def __init__(self, folder: Path, rank: int, limit_s: float, end: Callable[[int], object] = os._exit) -> None:
        self._folder, self._rank, self._limit_s, self._end = folder, rank, limit_s, end
        self._at = "the start"
        self._ticks_left = _TICKS
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @classmethod
    def none(cls) -> Watchdog:
        """One that watches nothing."""
        return cls(Path(), 0, 0.0)

    def start(self) -> None:
        """Begins to watch; until `close`, which has to follow, however what is watched ends."""
        if self._limit_s > 0:
            self._thread.start()

    def at(self, stage: str, patience: int = 1) -> None:
        """Reports that a stage begins.

        Args:
            stage: as the message names it, "waiting for data".
            patience: how many times the limit it may take.
        """
        self._at, self._ticks_left = stage, _TICKS * patience

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._limit_s / _TICKS):
            self._ticks_left -= 1
            if self._ticks_left < 0:
                self._tell()
                self._end(EXIT_CODE)
                return

    def _tell(self) -> None:
        path = self._folder / f"hang.rank{self._rank}.txt"
        said = f"Rank {self._rank} has hung in {self._at} for more than {self._limit_s:g} s"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                print(f"{said}. Where each of its threads stood:\n", file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"its stacks are in {path}"
        except OSError as error:
            where = f"its stacks cannot be written to {path} ({error.strerror})"
        sys.stderr.write(
            f"error: {said}: {where}; find the rank that is elsewhere than the others, then go on with --resume auto.\n"
        )
        sys.stderr.flush()
