"""The largest batch that fits, with a memory of known size in place of a card's, and as a user asks for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from conftest import free_port
from training import finetune, pretrain

from loaders import InputError
from twistnet import distributed, fitting
from twistnet.distributed import World
from twistnet.fitting import available_memory, fit_batch, fitted, largest
from twistnet.job import Job
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.starting import Start

pytest_plugins = ("training",)
CPU = World(rank=0, world_size=1, device=torch.device("cpu"))


class Memory:
    """Holds batches up to a limit, and notes what was tried."""

    def __init__(self, limit: int) -> None:
        self.limit, self.tried = limit, []

    def attempt(self, size: int) -> bool:
        self.tried.append(size)
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return True


@pytest.mark.parametrize(
    ("limit", "smallest", "most", "found"),
    [
        *((100, 2, 4096, 96), (95, 2, 4096, 64), (128, 2, 4096, 128), (191, 8, 4096, 128), (192, 8, 4096, 192)),
        *((1000, 8, 50, 48), (1000, 8, 40, 32), (7, 8, 4096, 0), (8, 8, 4096, 8), (15, 8, 8, 8)),
    ],
)
def test_doubling_stops_at_the_limit(limit: int, smallest: int, most: int, found: int) -> None:
    memory = Memory(limit)
    assert largest(memory.attempt, smallest, most) == found
    assert all(size <= most for size in memory.tried), "nothing is tried that is not wanted"
    assert sum(size > limit for size in memory.tried) <= 2


def test_a_batch_that_fits_barely_does_not_count() -> None:
    assert largest(lambda size: size <= 20, 2, 4096) == 16


def small(**changes: Any) -> Recipe:
    return named("demo").with_changes(**{"model": "test_resnet", "size": 32, "batch_size": 32} | changes)


def with_memory(monkeypatch: pytest.MonkeyPatch, available: float) -> None:
    monkeypatch.setattr(fitting, "available_memory", lambda: int(available))


def test_a_cpus_memory_bounds_the_batch(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(data_dir=tree, run_dir=tmp_path, weights_name="w.pt", workers=1)
    with_memory(monkeypatch, 1e12)
    assert fitted(small(), job, CPU) == small(), "no more than the recipe's"
    assert "Batch size 32, 1 to a step: an image takes " in capsys.readouterr().out
    alone = World(rank=0, world_size=1, device=torch.device("cpu"))
    kept = [fitting._take_step(small(), 3, alone, size) for size in (4, 12)]
    an_image = (kept[1] - kept[0]) / 8
    for images, parts in ((17, (16, 2)), (13, (8, 4)), (5, (4, 8))):
        with_memory(monkeypatch, (images + 0.5) * an_image / 0.9)
        found = fitted(small(), job, CPU)
        assert (found.batch_size, found.accumulate, found.peak_lr(1)) == (*parts, small().peak_lr(1))
    mixing = small(mixup_alpha=0.2, mix_group=8, batch_size=24)
    with_memory(monkeypatch, 13 * an_image / 0.9)
    assert fitted(mixing, job, CPU).batch_size == 8, "in whole groups"
    with pytest.raises(InputError, match="a batch of 31 has no part of at most 12 images"):
        fitted(small(batch_size=31), job, CPU)
    with_memory(monkeypatch, an_image)
    with pytest.raises(InputError, match="not even 2 images of 32 pixels fit into 0 MiB of memory"):
        fitted(small(), job, CPU)


def _on_a_rank(rank: int, port: int, tree: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    fitting.available_memory = lambda: 10**12 if rank == 0 else ROOM
    with distributed.join("cpu") as world:
        job = Job(data_dir=tree, run_dir=out, weights_name="w.pt", workers=1)
        (out / f"{rank}.txt").write_text(str(fitted(small(batch_size=16), job, world).batch_size))


ROOM = 2 * 8 * 2**20  # of two ranks on one machine


def test_all_ranks_take_the_smallest(tree: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_on_a_rank, (free_port(), tree, tmp_path), nprocs=2)
    found = {int((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)}
    kept = [fitting._take_step(small(), 3, CPU, size) for size in (4, 12)]
    an_image = (kept[1] - kept[0]) / 8
    (batch_size,) = found
    assert batch_size < 16, "which the first rank would take"
    assert batch_size * an_image <= 0.9 * ROOM / 2 < 2 * batch_size * an_image


def test_what_a_step_keeps_grows_with_its_images() -> None:
    """And is not less than the largest outputs: of TwistNet-18's stem 64 x 16 x 16 floats for an image of 32 pixels."""
    for tune in ("all", "classifier"):
        ours = small(model="twistnet18", tune=tune)
        four, eight, sixteen = (fitting._take_step(ours, 3, CPU, size) for size in (4, 8, 16))
        assert sixteen - eight == 2 * (eight - four)
        assert (eight - four) / 4 >= 3 * 64 * 16 * 16 * 4
    assert (eight - four) / 4 < 4 * 64 * 16 * 16 * 4, "a frozen backbone keeps nothing for the backward pass"


def test_the_total_batch_and_its_rate_stay(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    an_image = (fitting._take_step(small(), 3, CPU, 12) - fitting._take_step(small(), 3, CPU, 4)) / 8
    with_memory(monkeypatch, 13 * an_image / 0.9)
    assert pretrain(tree, "--batch_size=auto", "--no_publish", "--set=weight_decay=0.01", "--lr=0.256") == 0
    stored = json.loads(Path("checkpoints/recipe.json").read_text())
    assert (stored["batch_size"], stored["accumulate"], stored["lr"]) == (8, 4, 0.256)
    rows = [json.loads(line) for line in Path("checkpoints/log.jsonl").read_text().splitlines()]
    assert max(row["lr"] for row in rows if row["kind"] == "steps") == pytest.approx(0.032)
    with_memory(monkeypatch, 0)
    assert pretrain(tree, "--batch_size=auto", "--no_publish", "--resume=auto", "--lr=0.256") == 0, "it keeps its own"


def test_a_run_that_goes_on_keeps_its_batch(tmp_path: Path) -> None:
    job = Job(data_dir=tmp_path / "nowhere", run_dir=tmp_path, weights_name="w.pt")
    assert fit_batch(small(), job, CPU, auto=True, start=Start(tmp_path, {})) == small()
    assert fit_batch(small(), job, CPU, auto=False, start=None) == small()
    assert fit_batch(small(tune="probe"), job, CPU, auto=True, start=None) == small(tune="probe")
    with pytest.raises(InputError, match="nowhere"):
        fit_batch(small(), job, CPU, auto=True, start=None)


def test_fine_tuning_finds_its_batch_by_itself(dtd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert finetune(dtd, "--batch_size=auto", f"--run_dir={folder}", "--weights=none") == 0
    assert "Batch size 16, 1 to a step: an image takes " in capsys.readouterr().out, "the recipe's"
    assert json.loads((folder / "recipe.json").read_text())["batch_size"] == 16
    assert finetune(dtd, "--batch_size=large") == 2
    assert "--batch_size 'large' is not a whole number and is not auto" in capsys.readouterr().err


def test_available_memory_is_the_kernels(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:      7 kB\nHugePages_Total:   0\n")
    assert available_memory(meminfo) == 7 * 1024
    assert 0 < available_memory() <= available_memory(tmp_path / "none")


@pytest.mark.gpu
def test_a_card_is_filled_and_not_overfilled() -> None:
    """The batch that was found trains, the next but one would not have fitted."""
    world = World(rank=0, world_size=1, device=torch.device("cuda", 0))
    ours = named("demo").with_changes(model="resnet18", size=224, accumulate=1, amp=False)
    whole = torch.cuda.get_device_properties(0).total_memory
    room = whole // 16
    torch.cuda.set_per_process_memory_fraction(room / whole, 0)
    try:
        found = fitting._on_card(ours, 1000, world, 2, 4096)
        assert 16 <= found.batch_size < 4096
        fitting._take_step(ours, 1000, world, found.batch_size)
        with pytest.raises(torch.OutOfMemoryError):
            fitting._take_step(ours, 1000, world, 3 * found.batch_size)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated(0) < 2**30
