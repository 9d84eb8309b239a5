"""SIGINT and SIGTERM as a wish: training saves first and says how to go on. A second one, later, ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_WISHES = (signal.SIGINT, signal.SIGTERM)
_SAME_WISH_S = 1.0  # Ctrl-C reaches a rank twice: from the terminal, and from torchrun


class Noted:
    """Whether a signal has come: its number, else 0."""

    signal = 0
    since = 0.0


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
        if not found.signal:
            found.signal, found.since = number, time.monotonic()
        elif time.monotonic() - found.since > _SAME_WISH_S:
            restore()
            os.kill(os.getpid(), number)

    for number in _WISHES:
        signal.signal(number, note)
    try:
        yield found
    finally:
        restore()
