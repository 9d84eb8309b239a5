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
    """Whether a signal has come.

    Attributes:
        signal: its number, else 0.
        since: when it came, by `time.monotonic`.
        waits_for: what is finished before the run stops, as the first signal's line names it.
    """

    signal = 0
    since = 0.0
    waits_for = "this step"


class Stopped(KeyboardInterrupt):
    """Ended as a signal asked for, with everything saved; `code` is the exit code that shells expect."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.code = 128 + number


_inside: list[tuple[Noted, Callable[[], str]]] = []  # the blocks that the main thread is in, the outermost first


@contextmanager
def noted(leave: Callable[[], str] = lambda: "", *, tells: bool = True) -> Iterator[Noted]:
    """Notes the signals that come while the block runs, instead of ending the process.

    A second signal, or `GRACE_S` seconds after the first, ends the process with exit code 128 + number, even where the
    main thread is inside a library: a thread of its own sees signals. The first one is told of at once.

    Blocks may lie in each other. A signal that came to the outer one before is the inner one's too, and the other way
    round: it may come between the last step of the one and the first of the other.

    Args:
        leave: called before the process is ended so, to tidy up; what it returns is printed.
        tells: whether the first signal is told of, as one rank does for all.
    """
    found = Noted()
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set handlers
        yield found
        return
    outer = _inside[-1][0] if _inside else Noted()
    found.signal, found.since = outer.signal, outer.since
    _inside.append((found, leave))
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, _go_on) for number in WISHES}
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, found, tells), name="signals", daemon=True)
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
        _inside.pop()
        outer.signal, outer.since = found.signal, found.since


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

    with noted(lambda: f"{_GO_ON}.", tells=False):
        for number in WISHES:
            signal.signal(number, stop)
        yield


def _go_on(*_: object) -> None:
    """The handler: without one a signal would end the process, and never come to the watcher."""


def _watch(ours: socket.socket, found: Noted, tells: bool) -> None:
    while True:
        try:
            numbers = ours.recv(64)
        except TimeoutError:
            _end(found.signal, f"{found.waits_for} was not done {GRACE_S:.0f} s after the signal")
        if not numbers:  # the block has ended
            return
        for number in numbers:
            if number not in WISHES:
                continue
            if not found.signal:
                found.since, found.signal = time.monotonic(), number
                if tells:
                    _say(
                        f"{signal.Signals(number).name}: stopping after {found.waits_for}; once more, "
                        f"{_SAME_WISH_S:g} s from now or later, ends at once."
                    )
            elif time.monotonic() - found.since > _SAME_WISH_S:
                _end(number, "a second signal came")
        if found.signal:
            ours.settimeout(max(0.001, found.since + GRACE_S - time.monotonic()))


def _end(number: int, why: str) -> None:
    try:
        said = " ".join([leave() for _, leave in reversed(_inside)])
        _say(f"Ended at once, {why}: {said}")
    finally:
        os._exit(128 + number)  # no exception reaches a main thread that is inside a library


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
