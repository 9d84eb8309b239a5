"""A rank that hangs ends the whole run, wherever it does, and every rank has written down where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import TINY

HANGS = """
import os, sys, time
from bench.recorded import watched
from twistnet.__main__ import main

def sleeps_for_ever(epoch, step, batch):
    if os.environ["RANK"] == "1" and step == 1:
        time.sleep(100_000)

with watched(sleeps_for_ever):
    code = main(sys.argv[1:])
sys.exit(code)
"""

# Rank 1 never comes to where the ranks meet, or never back from training.
AT_AN_END = """
import os, sys, time
from twistnet.__main__ import main
from twistnet.commands import pretrain

if os.environ["RANK"] == "1":
    if sys.argv.pop(1) == "start":
        time.sleep(100_000)
    train = pretrain.train
    def never_comes_back(*given, **options):
        train(*given, **options)
        given[2].watchdog.close()  # as good as stopped: its own would end it
        time.sleep(100_000)
    pretrain.train = never_comes_back
else:
    del sys.argv[1]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("where", "stage"),
    [("start", "meeting the other ranks"), ("end", "waiting for the other ranks at the end")],
)
def test_a_rank_that_hangs_before_or_after_training_is_missed(
    where: str, stage: str, tree: Path, tmp_path: Path
) -> None:
    script, folder = tmp_path / "hangs.py", tmp_path / "run"
    script.write_text(AT_AN_END)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), where]
    flags = [f"--data_dir={tree}", "--recipe=demo", *TINY, "--no_publish", f"--checkpoint_dir={folder}"]
    command = [sys.executable, *torchrun, "pretrain", *flags, "--hang_minutes=0.3"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
    assert f"error: Rank 0 has hung in {stage} for more than 18 s: its stacks are in" in found.stderr
    assert "exitcode  : 124" in found.stderr, "torchrun's own report"
    assert ("Final val_acc" in found.stdout) == (where == "end")


def test_a_rank_that_hangs_is_found_by_the_stacks_of_all(tree: Path, tmp_path: Path) -> None:
    script, folder = tmp_path / "hangs.py", tmp_path / "run"
    script.write_text(HANGS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    flags = [f"--data_dir={tree}", "--recipe=demo", *TINY, "--no_publish", f"--checkpoint_dir={folder}"]
    command = [sys.executable, *torchrun, "pretrain", *flags, "--hang_minutes=0.1"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
    assert "exitcode  : 124" in found.stderr, "torchrun's own report"
    for rank, stage, function in ((0, "a training step", "_train_epoch"), (1, "waiting for data", "sleeps_for_ever")):
        file = folder / f"hang.rank{rank}.txt"
        assert f"error: Rank {rank} has hung in {stage} for more than 6 s: its stacks are in {file}" in found.stderr
        stacks = file.read_text()
        assert function in stacks
        assert ("sleeps_for_ever" in stacks) == (rank == 1), "the guilty one is elsewhere than the other"
