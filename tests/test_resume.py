"""A killed run goes on with the very next batch and ends with the same bits, on one rank and on two."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.recorded import Taken
from twistnet.building import make_model, open_split
from twistnet.distributed import World
from twistnet.evaluate import evaluate
from twistnet.job import Job
from twistnet.precision import Precision
from twistnet.recipes import named

TOTAL_BATCH, EPOCHS, STEPS_PER_EPOCH = 16, 4, 4  # of 51 images
TIMED = ("seconds", "wait_s", "waited_steps", "bound_by", "images_per_s", "stages", "time")


@dataclass(frozen=True)
class Run:
    """A run in a folder of its own."""

    root: Path
    tree: Path
    ranks: int

    @property
    def folder(self) -> Path:
        return self.root / "run"

    def start(
        self, *extra: str, ranks: int | None = None, log_every: int = 1, checkpoint_minutes: int = 0
    ) -> subprocess.Popen[str]:
        """Starts training, as torchrun does where there are several ranks."""
        ranks = ranks or self.ranks
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"] if ranks > 1 else []
        command = [sys.executable, "-m", *torchrun, "bench.recorded", str(self.root / "record"), "pretrain"]
        often = {"log_every": log_every, "checkpoint_minutes": checkpoint_minutes}
        flags = {"data_dir": self.tree, "device": "cpu", "workers": 1} | often
        return subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in flags.items()), "--no_publish", *extra],
            cwd=self.root,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def begin(self, **often: int) -> subprocess.Popen[str]:
        batch_size = f"--batch_size={TOTAL_BATCH // self.ranks}"
        new = ["--recipe=guide", f"--epochs={EPOCHS}", "--size=32", batch_size, "--seed=3", "--set=ema_decay=0.9"]
        return self.start(*new, f"--checkpoint_dir={self.folder}", **often)

    def finish(self, process: subprocess.Popen[str]) -> str:
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0, printed
        return printed

    def resume(self, ranks: int | None = None) -> str:
        return self.finish(self.start(f"--resume={self.folder / 'latest.pt'}", ranks=ranks))

    def rows(self) -> list[dict[str, Any]]:
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def batches(self) -> dict[tuple[int, int], list[Any]]:
        """What training was given, by epoch and step, all ranks joined in order. Taken twice, it must be the same."""
        taken = Taken.read(self.root / "record")
        assert not taken.differing
        return taken.batches


def killed(root: Path, tree: Path, ranks: int) -> Run:
    """A new run, every process of it killed without warning at a random moment after some logged steps."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"kill seed {seed}")  # shown where the test fails
    rng = random.Random(seed)
    run = Run(root, tree, ranks)
    wanted = rng.randrange(2, EPOCHS * STEPS_PER_EPOCH - 2)
    process = run.begin()
    log = run.folder / "log.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if (run.folder / "latest.pt").exists() and log.read_text().count('"kind": "steps"') >= wanted:
            break
        time.sleep(0.002)
    time.sleep(rng.random() * 0.1)
    for path in root.glob("record-pid.*"):  # torchrun's workers have sessions of their own
        os.kill(int(path.read_text()), signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    printed, _ = process.communicate()
    assert not (run.folder / "twistnet18_imagenet.pt").exists(), f"the run ended before it was killed: {printed}"
    return run


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """Uninterrupted runs on some ranks, each trained once."""

    @functools.cache
    def train(ranks: int) -> Run:
        run = Run(tmp_path_factory.mktemp(f"whole{ranks}"), tree, ranks)
        run.finish(run.begin())
        return run

    return train


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_ends_with_the_same_bits(
    ranks: int, whole: Callable[[int], Run], tree: Path, tmp_path: Path
) -> None:
    run, uninterrupted = killed(tmp_path, tree, ranks), whole(ranks)
    run.resume()

    assert run.batches() == uninterrupted.batches()
    assert len(run.batches()) == EPOCHS * STEPS_PER_EPOCH
    rows = [
        [{key: value for key, value in row.items() if key not in TIMED} for row in rows if row["kind"] != "start"]
        for rows in (run.rows(), uninterrupted.rows())
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if row["kind"] == "steps"] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert_same_weights(run, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_first_and_loses_nothing(
    number: signal.Signals, whole: Callable[[int], Run], tree: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path, tree, 1)
    process = run.begin(log_every=1000, checkpoint_minutes=1000)  # only the signal makes it save inside an epoch
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and len(run.batches()) < STEPS_PER_EPOCH + 2:
        time.sleep(0.01)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, printed
    assert STEPS_PER_EPOCH < stopped_after(run, printed) < EPOCHS * STEPS_PER_EPOCH
    run.resume()
    assert_same_weights(run, whole(1))


def test_a_signal_to_one_rank_stops_all_at_one_step(whole: Callable[[int], Run], tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, 2)
    process = run.begin(log_every=1000, checkpoint_minutes=1000)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and len(run.batches()) < STEPS_PER_EPOCH + 2:
        time.sleep(0.01)
    os.kill(int((tmp_path / "record-pid.1").read_text()), signal.SIGUSR1)
    printed, _ = process.communicate(timeout=120)
    assert "exitcode  : 138" in printed, "torchrun's own report"
    assert stopped_after(run, printed) > STEPS_PER_EPOCH
    assert "ended first" not in printed, "no rank was left waiting for another"
    run.resume()
    assert run.batches() == whole(2).batches()
    assert_same_weights(run, whole(2))
    ranks = next(row for row in run.rows() if row["kind"] == "start")["env"]["ranks"]
    said = (
        f"Ranks on 1 node: {socket.gethostname()} (2 x cpu); gloo; an all-reduce of {ranks['megabytes']:.0f} MB takes"
    )
    assert said in printed
    weights = torch.load(run.folder / "twistnet18_imagenet.pt", weights_only=True)
    parameters = sum(each.numel() for name, each in weights.items() if "running" not in name and "num_b" not in name)
    assert ranks["megabytes"] == pytest.approx(4 * parameters / 1e6)
    assert ranks["bus_gb_per_s"] == pytest.approx(ranks["megabytes"] / 1e3 / ranks["all_reduce_s"]), (
        "2 (n - 1) / n is 1"
    )


SLOW_VALIDATION = """
import sys, time
sys.path.insert(0, {tests!r})
from twistnet import train
from twistnet.__main__ import main

evaluate = train.evaluate

def slowly(*given, after_batch, **options):
    def after():
        open({marker!r}, "w").close()
        time.sleep(0.5)
        after_batch()
    return evaluate(*given, after_batch=after, **options)

train.evaluate = slowly
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_in_validation_keeps_the_epoch(whole: Callable[[int], Run], tree: Path, tmp_path: Path) -> None:
    run, marker = Run(tmp_path, tree, 1), tmp_path / "validating"
    code = SLOW_VALIDATION.format(tests=str(Path(__file__).parent), marker=str(marker))
    flags = ["--recipe=guide", f"--epochs={EPOCHS}", "--size=32", f"--batch_size={TOTAL_BATCH}", "--seed=3"]
    flags += ["--set=ema_decay=0.9", "--device=cpu", "--workers=1", "--no_publish", "--log_every=1"]
    command = [sys.executable, "-c", code, "pretrain", f"--data_dir={tree}", f"--checkpoint_dir={run.folder}", *flags]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and not marker.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 143, printed
    assert stopped_after(run, printed) == STEPS_PER_EPOCH
    assert [row["kind"] for row in run.rows()] == ["start", *["steps"] * STEPS_PER_EPOCH]
    run.resume()
    assert min(epoch for epoch, _ in run.batches()) == 1, "the first epoch was only scored"
    assert_same_weights(run, whole(1))
    epochs = [[row for row in each.rows() if row["kind"] == "epoch"] for each in (run, whole(1))]
    for ours, expected in zip(*epochs, strict=True):
        assert {name: ours[name] for name in ("epoch", "step", "loss", "top1", "val_loss", "val_top1")} == {
            name: expected[name] for name in ("epoch", "step", "loss", "top1", "val_loss", "val_top1")
        }


def stopped_after(run: Run, printed: str) -> int:
    """The step of the checkpoint that a signal has left, which is the one that was told."""
    latest = run.folder / "latest.pt"
    stopped = torch.load(latest, weights_only=True)
    step = int(stopped["epoch"] * STEPS_PER_EPOCH + stopped["step_in_epoch"])
    assert f"interrupted after step {step}: go on with --resume {latest}." in printed
    return step


def assert_same_weights(run: Run, other: Run) -> None:
    weights, expected = (torch.load(each.folder / "twistnet18_imagenet.pt", weights_only=True) for each in (run, other))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


def test_ranks_end_with_a_launcher_that_is_killed(tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, 2)
    process = run.begin()
    pids = [tmp_path / f"record-pid.{rank}" for rank in range(2)]
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (run.folder / "log.jsonl").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    while time.monotonic() < deadline and any(Path("/proc", path.read_text()).exists() for path in pids):
        time.sleep(0.01)
    assert not any(Path("/proc", path.read_text()).exists() for path in pids)


def test_one_rank_goes_on_where_two_were_killed(whole: Callable[[int], Run], tree: Path, tmp_path: Path) -> None:
    run = killed(tmp_path, tree, 2)
    on_two = {
        key: samples for key, samples in run.batches().items() if len(samples) == TOTAL_BATCH
    }  # both ranks wrote theirs
    for path in tmp_path.glob("record.*"):
        path.unlink()
    run.resume(ranks=1)
    on_one = run.batches()
    assert on_two
    assert on_one
    assert on_two | on_one == whole(1).batches() == whole(2).batches()


def test_two_ranks_score_the_model_that_they_save(whole: Callable[[int], Run], tree: Path) -> None:
    run = whole(2)
    recipe, world = (
        named("guide").with_changes(size=32, eval_size=32, batch_size=8),
        World(rank=0, world_size=1, device=torch.device("cpu")),
    )
    model = make_model(recipe, 3, world)
    model.load_state_dict(torch.load(run.folder / "latest.pt", weights_only=True)["ema"])
    loader = open_split(Job(data_dir=tree, run_dir=tree, weights_name="any.pt"), "val", recipe, world, train=False)
    alone = evaluate(model, loader, world, Precision.choose(world.device, amp=False))
    loader.close()
    last = [row for row in run.rows() if row["kind"] == "epoch"][-1]
    assert (alone.samples, alone.top1, alone.top5) == (21, last["val_top1"], last["val_top5"])
    assert alone.loss == pytest.approx(last["val_loss"], rel=1e-5)


def test_the_run_folder_says_all(whole: Callable[[int], Run]) -> None:
    run = whole(1)
    names = {path.name for path in run.folder.iterdir()} - {".lock"}
    weights = {"twistnet18_imagenet.pt", "twistnet18_imagenet.safetensors"}
    assert names == weights | {
        "recipe.json",
        "env.json",
        "log.jsonl",
        "curves.png",
        "latest.pt",
        "previous.pt",
        "best.pt",
    }
    env = json.loads((run.folder / "env.json").read_text())
    assert env["world_size"] == 1
    assert env["decoder"] == "native"
    assert env["packages"]["torch"] == torch.__version__.partition("+")[0]
    epochs = [row for row in run.rows() if row["kind"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    assert all(row["val_samples"] == 21 for row in epochs)
    assert {"loss", "lr", "top1", "top5", "val_top1", "val_top5", "images_per_s", "wait_s"} <= epochs[0].keys()


def test_every_image_is_trained_on_once_an_epoch(whole: Callable[[int], Run]) -> None:
    for epoch in range(EPOCHS):
        ids = [
            sample[0]
            for (this_epoch, _), samples in whole(1).batches().items()
            for sample in samples
            if this_epoch == epoch and sample[-1]
        ]
        assert sorted(ids) == list(range(51))
