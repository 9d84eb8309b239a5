"""A signal is noted once, however often it comes at first; a later one ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from twistnet import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # Python runs handlers between two bytecodes


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own handler, which a process that was started in the background may lack."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_two_at_once_are_one_wish_and_a_later_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SAME_WISH_S", 1000.0)  # however busy the machine is
    before = signal.getsignal(signal.SIGTERM)
    with signals.noted() as found:
        assert found.signal == 0
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert found.signal == signal.SIGINT
        monkeypatch.setattr(signals, "_SAME_WISH_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_the_handlers_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with signals.noted() as found:
            seen.append((found.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(0, before)]


def test_a_stop_has_the_shells_exit_code() -> None:
    assert signals.Stopped(signal.SIGTERM, "").code == 143
    assert signals.Stopped(0, "").code == 143, "another rank was told"
