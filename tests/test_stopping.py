"""A signal ends a run with its documented code and within its limit, whatever the run is doing, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import free_port
from training import TINY

from twistnet import signals, train

WITHIN_S = 25.0  # as the launchers that kill allow, with room to spare

# Runs the command with a stage made slow: the marker is written where it begins.
SLOW = """
import sys, threading, time
from twistnet import {modules}
from twistnet.__main__ import main
signals.GRACE_S = {grace_s}

def slow(owner, name, seconds, after=0):
    right, calls = getattr(owner, name), []
    def slowly(*given, **options):
        calls.append(0)
        if len(calls) > after:
            open({marker!r}, "w").close()
            blocked = threading.Lock()
            blocked.acquire()
            blocked.acquire(timeout=seconds)  # no bytecode runs meanwhile, as in a library
        return right(*given, **options)
    setattr(owner, name, slowly)

{slow}
sys.exit(main(sys.argv[1:]))
"""


def stopped(
    tree: Path,
    folder: Path,
    modules: str,
    slow: str,
    *,
    grace_s: float = signals.GRACE_S,
    number: int = signal.SIGTERM,
    env: dict[str, str] | None = None,
) -> tuple[int, float, str]:
    """Exit code, seconds from the signal to the end, and what was said of it, of a run with a slow stage."""
    marker = folder / "marker"
    code = SLOW.format(modules=f"signals, {modules}", slow=slow, marker=str(marker), grace_s=grace_s)
    flags = ["--recipe=demo", *TINY, f"--data_dir={tree}", f"--checkpoint_dir={folder / 'run'}", "--no_publish"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "pretrain", *flags, "--log_every=1", "--checkpoint_minutes=0"],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not marker.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, time.monotonic() - began, said


def test_the_limits_fit_into_each_other() -> None:
    assert signals.GRACE_S + 4 <= WITHIN_S
    assert train._AT_A_STOP_S <= signals.GRACE_S / 2, "the other half is a step's, and the copy's to the host"


def test_a_signal_during_a_save_waits_for_it(tree: Path, tmp_path: Path) -> None:
    slow = (
        "slow(checkpoints.torch, 'save', 2)\n"
        "step = train.TrainStep.__call__\n"
        "train.TrainStep.__call__ = lambda *given: (time.sleep(0.5), step(*given))[1]  # else the last one comes first"
    )
    code, took_s, said = stopped(tree, tmp_path, "checkpoints, train", slow, number=signal.SIGUSR1)
    assert (code, took_s < WITHIN_S) == (138, True), said
    state = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    step = 4 * state["epoch"] + state["step_in_epoch"]  # of 51 images, 16 a step
    assert f"interrupted after step {step}: go on with --resume {tmp_path / 'run' / 'latest.pt'}." in said


def test_a_save_that_hangs_does_not_hold_the_run(tree: Path, tmp_path: Path) -> None:
    slow = "from twistnet import train; train._AT_A_STOP_S = 0.5; slow(checkpoints.torch, 'save', 100)"
    code, took_s, said = stopped(tree, tmp_path, "checkpoints", slow, grace_s=3)
    assert (code, took_s < 3 + WITHIN_S - signals.GRACE_S) == (143, True), said
    assert "Ended at once, " in said
    assert "nothing was saved yet." in said
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_disk_that_is_full_at_a_stop_is_told_and_the_code_is_the_signals(tree: Path, tmp_path: Path) -> None:
    slow = (
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "train._AT_A_STOP_S = 0.5\n"
        "checkpoints.write_atomically = full\n"
        "slow(train.TrainStep, '__call__', 0.5, after=2)"
    )
    code, took_s, said = stopped(tree, tmp_path, "checkpoints, train", slow)
    assert (code, took_s < WITHIN_S) == (143, True), said
    assert "which is not saved: latest.pt of" in said
    assert "could not be written (No space left on device)" in said


def test_a_compilation_is_not_waited_for(tree: Path, tmp_path: Path) -> None:
    slow = "slow(train.TrainStep, '__call__', 100)"
    code, took_s, said = stopped(tree, tmp_path, "train", slow, grace_s=2)
    assert (code, took_s < 2 + WITHIN_S - signals.GRACE_S) == (143, True), said
    assert "Ended at once, " in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_while_data_are_opened_is_told(tree: Path, tmp_path: Path, number: signal.Signals) -> None:
    slow = "slow(train, 'open_split', 0.5)"
    code, _, said = stopped(tree, tmp_path, "train", slow, number=number)
    assert code == 128 + number, said
    assert said.count("twistnet pretrain: interrupted outside of training: start again with --resume auto") == 1
    assert "Traceback" not in said


def test_a_signal_while_ranks_meet_is_told(tree: Path, tmp_path: Path) -> None:
    """The first rank waits for one that does not come, inside a library."""
    env = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    slow = "slow(distributed, '_find_store', 0.1)"
    code, took_s, said = stopped(tree, tmp_path, "distributed", slow, grace_s=2, env=env)
    assert (code, took_s < 2 + WITHIN_S - signals.GRACE_S) == (143, True), said
    assert "start again with --resume auto, which begins where nothing was saved yet." in said


def test_a_signal_while_the_weights_are_written_waits_for_them(tree: Path, tmp_path: Path) -> None:
    """They are the last that there is to do: a run that has them has finished, and is not to be requeued."""
    code, _, said = stopped(tree, tmp_path, "train", "slow(train, 'save', 0.5)")
    assert code == 0, said
    assert said.startswith("SIGTERM: stopping after the last checkpoint; ")
    assert torch.load(tmp_path / "run" / "latest.pt", weights_only=True)["epoch"] == 2
    assert torch.load(next((tmp_path / "run").glob("test_resnet*.pt")), weights_only=True)


def test_weights_that_take_longer_than_a_signal_grants_are_told(tree: Path, tmp_path: Path) -> None:
    code, took_s, said = stopped(tree, tmp_path, "train", "slow(train, 'save', 60)", grace_s=2)
    assert (code, took_s < 2 + WITHIN_S - signals.GRACE_S) == (143, True), said
    assert "Ended at once, the last checkpoint was not done 2 s after the signal: go on with --resume" in said
    assert not list((tmp_path / "run").glob("test_resnet*"))
