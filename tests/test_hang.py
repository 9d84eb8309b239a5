"""A rank that hangs in its loader ends the whole run, and every rank has written down where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
