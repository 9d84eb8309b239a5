"""A rank that makes no progress ends, and says where each of its threads stood; one that does is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twistnet.watchdog import EXIT_CODE, Watchdog

HANGS = """
import sys, threading, time
from pathlib import Path
from twistnet.watchdog import Watchdog

def a_step_that_never_ends():
    time.sleep(1000)

watchdog = Watchdog(Path(sys.argv[1]), 3, 1.0)
watchdog.start()
for _ in range(30):
    watchdog.at("waiting for data")
    time.sleep(0.1)
print("three limits have passed", flush=True)
watchdog.at("a training step")
a_step_that_never_ends()
"""


def test_a_hang_is_ended_with_the_stacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == EXIT_CODE == 124
    assert found.stdout == "three limits have passed\n"
    path = tmp_path / "hang.rank3.txt"
    assert found.stderr == (
        f"error: Rank 3 has hung in a training step for more than 1 s: its stacks are in {path}; find the rank that is "
        "elsewhere than the others, then go on with --resume auto.\n"
    )
    text = path.read_text()
    assert "Rank 3 has hung in a training step" in text
    assert "in a_step_that_never_ends" in text


def test_a_stopped_process_has_not_hung(tmp_path: Path) -> None:
    code = HANGS.replace("a_step_that_never_ends()\n\nwatch", "pass\n\nwatch").replace("range(30)", "range(40)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # three limits
    process.send_signal(signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.readline() == "three limits have passed\n"
    process.kill()
    process.communicate()


def test_patience_and_closing(tmp_path: Path) -> None:
    ended: list[int] = []
    watchdog = Watchdog(tmp_path, 0, 0.3, ended.append)
    time.sleep(0.5)
    assert ended == [], "it has not begun"
    watchdog.start()
    watchdog.at("compiling", patience=100)
    time.sleep(1.0)
    assert ended == []
    watchdog.close()
    none = Watchdog(tmp_path, 0, 0.0, ended.append)
    none.start()
    time.sleep(0.1)
    none.close()
    assert ended == []
    assert os.listdir(tmp_path) == []


def test_stacks_that_cannot_be_written_are_no_reason_to_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    ended: list[int] = []
    watchdog = Watchdog(tmp_path / "file", 0, 0.06, ended.append)
    watchdog.start()
    deadline = time.monotonic() + 60
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    watchdog.close()
    assert ended == [124]
    assert "its stacks cannot be written to" in capfd.readouterr().err
