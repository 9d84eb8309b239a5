"""A table that stays where it is on a terminal, with lines above it; elsewhere the lines alone."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

_USUAL = os.terminal_size((80, 24))
_PAUSES = 20  # times as long as a drawing took, which looks into many folders of a disk that may be far away
_UP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[{}A", "\x1b[K", "\x1b[J"


class Live:
    """Draws a table again and again, in a thread of its own.

    Args:
        stream: the terminal, or a file.
        draw: gives the table's lines, none longer than the width and at most as many as the height that it is given.
        every_s: seconds between two drawings.
    """

    def __init__(self, stream: TextIO, draw: Callable[[int, int], list[str]], every_s: float = 2.0) -> None:
        self._stream, self._draw, self._every_s = stream, draw, every_s
        self._on_terminal = stream.isatty()
        self._drawn = 0  # lines of the table on the terminal
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="table", daemon=True)
        if self._on_terminal:
            self._thread.start()

    def note(self, line: str) -> None:
        """Prints a line that the table tells too, where there is no table."""
        if not self._on_terminal:
            self.say(line)

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        with self._lock:
            self._stream.write(f"{self._erased()}{line}\n")
            self._stream.flush()
        self.update()

    def update(self) -> None:
        """Draws the table as it is now, on a terminal."""
        if not self._on_terminal:
            return
        with self._lock:
            lines = self._draw(*self._size())
            up = _UP.format(self._drawn) if self._drawn else ""
            text = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
            self._stream.write(f"\r{up}{text}{_CLEAR_BELOW}")
            self._stream.flush()
            self._drawn = len(lines)

    def close(self) -> None:
        """Leaves the table as it is, drawn for the last time."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.update()
        self._drawn = 0

    def _erased(self) -> str:
        """What takes the table from the terminal."""
        drawn, self._drawn = self._drawn, 0
        return f"\r{_UP.format(drawn)}{_CLEAR_BELOW}" if drawn else ""

    def _work(self) -> None:
        wait_s = self._every_s
        while not self._closing.wait(wait_s):
            began = time.monotonic()
            with contextlib.suppress(OSError):  # a disk that is away for a moment
                self.update()
            wait_s = max(self._every_s, _PAUSES * (time.monotonic() - began))

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except OSError:  # io.UnsupportedOperation is one
            return _USUAL.columns, _USUAL.lines
        return (size.columns or _USUAL.columns, size.lines or _USUAL.lines)
