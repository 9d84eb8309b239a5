"""SIGINT and SIGTERM as a wish: training saves first and says how to go on. A second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_WISHES = (signal.SIGINT, signal.SIGTERM)


class Noted:
    """Whether a signal has come: its number, else 0."""

    signal = 0


class Stopped(KeyboardInterrupt):
    """Ended as a signal asked for, with everything saved; `code` is the exit code that shells expect."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + (number or signal.SIGTERM)  # 0: the signal came to another rank


@contextmanager
def noted() -> Iterator[Noted]:
    """Notes the signals that come while the block runs, instead of ending the process."""
    found = Noted()
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set handlers
        yield found
        return
    before = {number: signal.getsignal(number) for number in _WISHES}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        found.signal = number
        restore()

    for number in _WISHES:
        signal.signal(number, note)
    try:
        yield found
    finally:
        restore()
