"""Signals as a wish: training saves first and says how to go on. A second one ends at once, as does a wish that
training cannot follow in time, whatever it is doing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WISHES = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # USR1: what SLURM is asked to send ahead of the end
GRACE_S = 20.0  # SLURM, Kubernetes and torchrun kill after 30
_GO_ON = "start again with --resume auto, which begins where nothing was saved yet"
_SAME_WISH_S = 2.0  # one wish reaches a rank twice: from the terminal or SLURM, and from torchrun


class Noted:
    """Whether a signal has come: its number, else 0."""

    signal = 0
    since = 0.0


class Stopped(KeyboardInterrupt):
    """Ended as a signal asked for, with everything saved; `code` is the exit code that shells expect."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


@contextmanager
def noted(leave: Callable[[], str] = lambda: "") -> Iterator[Noted]:
    """Notes the signals that come while the block runs, instead of ending the process.

    A second signal, or `GRACE_S` seconds after the first, ends the process with exit code 128 + number, even where the
    main thread is inside a library: a thread of its own sees signals.

    Args:
        leave: called before the process is ended so, to tidy up; what it returns is printed.
    """
    found = Noted()
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set handlers
        yield found
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, _go_on) for number in WISHES}
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, found, leave), name="signals", daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        watcher.join()
        ours.close()


@contextmanager
def at_once() -> Iterator[None]:
    """Ends the block by `Stopped` as soon as a signal comes: outside of training, where nothing is left to save.

    A block of `noted` within it has the signals for as long as it runs. Where the main thread is inside a library, as
    while it waits for other ranks, the process ends as `noted` says.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        if not came:  # what it raised is on its way
            came.append(number)
            raise Stopped(number, f"outside of training: {_GO_ON}")

    with noted(lambda: f"{_GO_ON}."):
        for number in WISHES:
            signal.signal(number, stop)
        yield


def _go_on(*_: object) -> None:
    """The handler: without one a signal would end the process, and never come to the watcher."""


def _watch(ours: socket.socket, found: Noted, leave: Callable[[], str]) -> None:
    while True:
        try:
            numbers = ours.recv(64)
        except TimeoutError:
            _end(found.signal, f"not at the end of a step {GRACE_S:.0f} s after the signal", leave)
        if not numbers:  # the block has ended
            return
        for number in numbers:
            if number not in WISHES:
                continue
            if not found.signal:
                found.since, found.signal = time.monotonic(), number
            elif time.monotonic() - found.since > _SAME_WISH_S:
                _end(number, "a second signal came", leave)
        if found.signal:
            ours.settimeout(max(0.001, found.since + GRACE_S - time.monotonic()))


def _end(number: int, why: str, leave: Callable[[], str]) -> None:
    try:
        sys.stderr.write(f"Ended at once, {why}: {leave()}\n")
        sys.stderr.flush()
    finally:
        os._exit(128 + number)  # no exception reaches a main thread that is inside a library
