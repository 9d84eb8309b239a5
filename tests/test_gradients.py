"""A step's gradient is the total batch's, however that is split into passes and ranks; nothing in it waits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from conftest import free_port
from timm.utils.model import freeze_batch_norm_2d
from torch.multiprocessing import spawn
from torch.utils._python_dispatch import TorchDispatchMode

import twistnet.train
from twistnet import building, distributed
from twistnet.buffers import average_buffers
from twistnet.job import Job
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import TrainStep
from twistnet.train import train

# Without batch norm, whose statistics are those of a pass, the gradient of a batch is the mean of its parts'.
RECIPE = named("guide").with_changes(
    model="test_vit", size=32, eval_size=32, batch_size=16, epochs=2, lr=0.5, momentum=0.9, mix_group=4
)


def weights_after(rank: int, world_size: int, port: int, tree: Path, out: Path, recipe: Recipe) -> None:
    """One rank of a run, in a process of its own where there are several."""
    if world_size > 1:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), **address)
        torch.set_num_threads(1)
    frozen = "FROZEN_STATISTICS" in os.environ

    def make_model(*given: Any) -> torch.nn.Module:
        model = building.make_model(*given)
        return freeze_batch_norm_2d(model) if frozen else model

    with mock.patch.object(twistnet.train, "make_model", make_model), distributed.join("cpu") as world:
        train(Job(data_dir=tree, run_dir=out, weights_name="final.pt", workers=1, log_every=1), recipe, world)


def trained(tree: Path, out: Path, ranks: int = 1, **changes: Any) -> dict[str, torch.Tensor]:
    recipe = RECIPE.with_changes(batch_size=16 // ranks).with_changes(**changes)
    if ranks == 1:
        weights_after(0, 1, 0, tree, out, recipe)
    else:
        port = free_port()
        spawn(weights_after, (ranks, port, tree, out, recipe), nprocs=ranks)
    found: dict[str, torch.Tensor] = torch.load(out / "final.pt", weights_only=True)
    return found


def moved(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The Euclidean distance between two models."""
    return float(sum((one[name] - other[name]).double().square().sum() for name in one)) ** 0.5


@pytest.fixture(scope="module")
def start() -> dict[str, torch.Tensor]:
    torch.manual_seed(RECIPE.seed)
    return dict(timm.create_model("test_vit", num_classes=3, img_size=32).state_dict())


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Trained in one pass a step on one rank."""
    return trained(tree, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(
    "split", [{"batch_size": 4, "accumulate": 4}, {"ranks": 2}, {"ranks": 2, "accumulate": 2, "batch_size": 4}]
)
def test_passes_and_ranks_do_not_change_the_step(
    tree: Path, tmp_path: Path, whole: dict[str, torch.Tensor], start: dict[str, torch.Tensor], split: dict[str, Any]
) -> None:
    parts = trained(tree, tmp_path / "run", **split)
    assert moved(parts, whole) < 1e-4 * moved(start, whole)


def test_compressed_gradients_are_near(
    tree: Path, tmp_path: Path, whole: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """Exchanged in bfloat16: other weights, by no more than its rounding."""
    parts = trained(tree, tmp_path / "run", ranks=2, compress_gradients=True)
    assert 1e-5 * moved(start, whole) < moved(parts, whole) < 0.02 * moved(start, whole)


@pytest.fixture
def frozen_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norms that normalise by their running statistics, in this process and in those that are spawned."""
    monkeypatch.setenv("FROZEN_STATISTICS", "1")


@pytest.mark.usefixtures("frozen_statistics")
def test_twistnet_on_two_ranks_is_twistnet_on_one(tree: Path, tmp_path: Path) -> None:
    """With frozen statistics, which alone tie a batch's samples together: same rates, data and losses.

    At 32 pixels the last stage is a single pixel, whose group norm multiplies rounding by a hundred, and at a higher
    rate nothing tames a network without its norms: any two runs part.
    """
    changes = {"model": "twistnet18", "lr": 0.003, "size": 64, "eval_size": 64}
    one, two = (trained(tree, tmp_path / str(ranks), ranks=ranks, **changes) for ranks in (1, 2))
    torch.manual_seed(RECIPE.seed)
    begun = {name: t for name, t in timm.create_model("twistnet18", num_classes=3).state_dict().items() if name in one}
    assert moved(one, two) < 5e-3 * moved(one, begun)  # a thousandth, as it happens to be rounded
    rows = [[json.loads(line) for line in (tmp_path / ranks / "log.jsonl").read_text().splitlines()] for ranks in "12"]
    steps = [[row for row in each if row["kind"] == "steps"] for each in rows]
    assert len(steps[0]) == len(steps[1]) == 8
    for ours, theirs in zip(*steps, strict=True):
        assert ours["lr"] == theirs["lr"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


def test_clipping_bounds_every_step(tree: Path, tmp_path: Path, start: dict[str, torch.Tensor]) -> None:
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    # 8 steps at no more than the peak rate of 0.5 * 16 / 256, each of a gradient no longer than the norm.
    clipped, free = (trained(tree, tmp_path / f"{norm}", clip_grad=norm, **plain) for norm in (0.01, None))
    assert 0 < moved(clipped, start) <= 8 * 0.03125 * 0.01 * 1.001
    assert moved(free, start) > 8 * 0.03125 * 0.01


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a tensor's value, and shapes that depend on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostReads]:
    reads, step = HostReads(), TrainStep.__call__

    def watched_step(*arguments: Any) -> None:
        with reads:
            step(*arguments)

    monkeypatch.setattr(TrainStep, "__call__", watched_step)
    yield reads


@pytest.mark.parametrize("model", ["twistnet18", "test_vit"])
@pytest.mark.parametrize("options", [{"drop_path": 0.1}, {"ema_decay": 0.9}])
def test_a_step_reads_nothing_back(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, float]
) -> None:
    with watched(monkeypatch) as reads:
        trained(tree, tmp_path / "run", model=model, clip_grad=1.0, accumulate=2, batch_size=8, **options)
        assert reads.found == []
        with reads:
            float(torch.ones(1))
        assert reads.found == ["_local_scalar_dense"], "the count counts"


def buffers_of(rank: int, world_size: int, port: int, out: Path) -> None:
    """Trains a batch norm on inputs whose mean is 10 times the rank, and writes down what all ranks come to."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), **address)
    with distributed.join("cpu") as world:
        model = torch.nn.BatchNorm1d(1)
        parallel = world.wrap(model)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(100):
            parallel(torch.randn(64, 1, generator=generator) + 10 * rank).sum().backward()
        own = float(model.running_mean)
        average_buffers(model, world)
        torch.save((own, model.running_mean, model.running_var, model.num_batches_tracked), out / f"{rank}.pt")
        del parallel
        world.wait_for_all()  # a group that ends while its thread still drops tensors waits for ever


def test_batch_norms_statistics_are_those_of_all_ranks(tmp_path: Path) -> None:
    port = free_port()
    spawn(buffers_of, (3, port, tmp_path), nprocs=3)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    assert [own for own, *_ in found] == pytest.approx([0, 10, 20], abs=0.5)
    for _, mean, var, count in found:
        assert float(mean) == pytest.approx(10, abs=0.5)
        assert float(var) == pytest.approx(1, abs=0.2)
        assert int(count) == 100


def test_a_batch_norms_split_is_all_that_ranks_change(tree: Path, tmp_path: Path) -> None:
    """Live statistics are those of a pass: two passes on one rank split a batch as two ranks do, and lose the same."""
    splits: dict[str, dict[str, Any]] = {
        "whole": {},
        "passes": {"batch_size": 8, "accumulate": 2},
        "ranks": {"ranks": 2},
    }
    curves = {}
    for name, split in splits.items():
        trained(tree, tmp_path / name, model="test_resnet", lr=0.1, **split)
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        curves[name] = [(row["lr"], row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "steps"]
        assert len(curves[name]) == 8
    for ours, right, whole in zip(curves["ranks"], curves["passes"], curves["whole"], strict=True):
        assert ours == pytest.approx(right, rel=1e-3)
        assert ours[0] == whole[0]
    apart = [abs(one[1] - other[1]) for one, other in zip(curves["passes"], curves["whole"], strict=True)]
    assert max(apart) > 0.01, "another split is another run"
    assert max(apart) < 0.5
