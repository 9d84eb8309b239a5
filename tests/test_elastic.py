"""A run that goes on with fewer ranks, four, then two, then three, is the run that one rank makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.recorded import Taken
from twistnet.building import make_model
from twistnet.distributed import World
from twistnet.recipe import from_dict

EPOCHS, STEPS_PER_EPOCH = 4, 3  # of 51 images, 24 a step
# Passes of two images whatever the ranks: batch norm sees the same images together.
TOTAL_BATCH, PASS = 24, 2
STOPS = {4: 3, 2: 7, 3: None}  # ranks, and the step after which a signal comes to the last of them

SCRIPT = """
import os, runpy, signal, sys, time
from twistnet.train import TrainStep

last, after, right = int(os.environ["WORLD_SIZE"]) - 1, sys.argv.pop(1), TrainStep.__call__

def step(self, batch, number, *rest):
    right(self, batch, number, *rest)
    if str(number + 1) == after and int(os.environ["RANK"]) == last:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.3)  # until it is noted

TrainStep.__call__ = step
runpy.run_module("bench.recorded", run_name="__main__", alter_sys=True)
"""


def run(root: Path, tree: Path, ranks: int, stop: int | None = None) -> subprocess.CompletedProcess[str]:
    """Starts it as torchrun does, or goes on."""
    (root / "script.py").write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", str(root / "script.py")]
    # As for the first start, with its four ranks or one: the total batch is what stays.
    first = 4 if ranks > 1 else 1
    batch = [f"--batch_size={PASS}", f"--accumulate={TOTAL_BATCH // PASS // first}"]
    flags = ["--recipe=demo", "--model=test_resnet", f"--epochs={EPOCHS}", "--size=64", "--lr=0.1", *batch]
    flags += [f"--data_dir={tree}", f"--checkpoint_dir={root / 'run'}", "--resume=auto", "--no_publish"]
    flags += ["--device=cpu", "--workers=1"]
    return subprocess.run(
        [sys.executable, *torchrun, str(stop), str(root / f"record{ranks}"), "pretrain", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def weights(root: Path) -> dict[str, torch.Tensor]:
    """Without the running statistics, which are means over the ranks' own."""
    state: dict[str, Any] = torch.load(root / "run" / "test_resnet_imagenet.pt", weights_only=True)
    return {name: tensor for name, tensor in state.items() if "running" not in name and "tracked" not in name}


def test_four_ranks_then_two_then_three_are_one(tree: Path, tmp_path: Path) -> None:
    alone, shrunk = tmp_path / "alone", tmp_path / "shrunk"
    for root in (alone, shrunk):
        root.mkdir()
    ended = run(alone, tree, 1)
    assert ended.returncode == 0, ended.stderr
    steps = []
    for ranks, stop in STOPS.items():
        ended = run(shrunk, tree, ranks, stop)
        assert (ended.returncode == 0) == (stop is None), ended.stderr
        assert f"total batch {TOTAL_BATCH} on {ranks} x cpu" in ended.stdout
        state = torch.load(shrunk / "run" / "latest.pt", weights_only=True)
        steps.append(state["epoch"] * STEPS_PER_EPOCH + state["step_in_epoch"])
        if stop is not None:
            assert f"interrupted after step {steps[-1]}: go on with --resume" in ended.stderr
    assert 3 <= steps[0] < steps[1] < steps[2] == EPOCHS * STEPS_PER_EPOCH

    parts = [Taken.read(shrunk / f"record{ranks}").batches for ranks in STOPS]
    assert [len(part) for part in parts] == [steps[0], steps[1] - steps[0], steps[2] - steps[1]]
    expected = Taken.read(alone / "record1").batches
    assert parts[0] | parts[1] | parts[2] == expected
    assert len(expected) == EPOCHS * STEPS_PER_EPOCH

    world = World(rank=0, world_size=1, device=torch.device("cpu"))
    began = make_model(from_dict(json.loads((alone / "run" / "recipe.json").read_text())), 3, world).state_dict()
    ours, theirs = weights(shrunk), weights(alone)
    apart = distance(ours, theirs) / distance(theirs, began)
    assert apart < 0.01, "of the way that training has come: other sums of the same float32 numbers"


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5
