"""A signal is noted once, however often it comes at first; a later one, or too long a wait, ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from twistnet import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def wait_for(found: signals.Noted) -> int:
    deadline = time.monotonic() + 60
    while not found.signal and time.monotonic() < deadline:
        time.sleep(0.001)
    return found.signal


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Python's own handler, which a process that was started in the background may lack."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_several_at_once_are_one_wish(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SAME_WISH_S", 1000.0)  # however busy the machine is
    monkeypatch.setattr(signals, "GRACE_S", 1000.0)
    handlers = [signal.getsignal(each) for each in signals.WISHES]
    threads = threading.active_count()
    with signals.noted() as found:
        assert found.signal == 0
        send(number)
        assert wait_for(found) == number
        send(signal.SIGTERM)
        send(signal.SIGINT)
        time.sleep(0.05)
        assert found.signal == number
    assert [signal.getsignal(each) for each in signals.WISHES] == handlers
    assert threading.active_count() == threads
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_interruptible")
def test_a_wish_goes_through_blocks_in_each_other() -> None:
    """Between two runs it is for the next one, and at the end of one for what comes after it."""
    with signals.noted() as outer:
        with signals.noted() as inner:
            pass
        assert inner.signal == outer.signal == 0
        send(signal.SIGTERM)
        assert wait_for(outer) == signal.SIGTERM
        with signals.noted() as inner:
            assert inner.signal == signal.SIGTERM
    with signals.noted() as outer:
        with signals.noted() as inner:
            send(signal.SIGUSR1)
            assert wait_for(inner) == signal.SIGUSR1
        assert outer.signal == signal.SIGUSR1
    with signals.noted() as later:
        assert later.signal == 0


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
    assert signals.Stopped(signal.SIGUSR1, "").code == 138


# The main thread is inside a library that holds no bytecode, and lets others run: a wait without end.
STUCK = """
import threading, sys
from twistnet import signals
signals.GRACE_S, signals._SAME_WISH_S = float(sys.argv[1]), float(sys.argv[2])
lock = threading.Lock()
lock.acquire()
tells = sys.argv[3] == "tells"
with signals.noted(lambda: "All is tidy.", tells=tells), signals.noted(lambda: "tidied up.", tells=tells):
    print("ready", flush=True)
    lock.acquire()
"""


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("grace_s", "sent", "code", "why"),
    [
        (0.5, [signal.SIGUSR1], 138, "this step was not done 0 s after the signal"),
        (0.5, [signal.SIGTERM], 143, "this step was not done 0 s after the signal"),
        (1000, [signal.SIGTERM, signal.SIGINT], 130, "a second signal came"),
        (1000, [signal.SIGTERM, signal.SIGTERM], 143, "a second signal came"),
    ],
)
def test_what_cannot_follow_is_ended(grace_s: float, sent: list[int], code: int, why: str, tells: bool) -> None:
    command = [sys.executable, "-c", STUCK, str(grace_s), "0.2", "tells" if tells else ""]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in sent:
        process.send_signal(number)
        time.sleep(0.4)
    _, said = process.communicate(timeout=60)
    name = signal.Signals(sent[0]).name
    first = f"{name}: stopping after this step; once more, 0.2 s from now or later, ends at once.\n" if tells else ""
    assert (process.returncode, said) == (code, f"{first}Ended at once, {why}: tidied up. All is tidy.\n")


def test_the_first_signal_is_told_of_at_once() -> None:
    command = [sys.executable, "-c", STUCK, "1000", "2", "tells"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    line = process.stderr.readline()
    process.kill()
    process.communicate()
    assert line == "SIGTERM: stopping after this step; once more, 2 s from now or later, ends at once.\n"
