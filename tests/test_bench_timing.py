"""What stands beside a rate: memory of the rounds alone, and uploads of what no cache holds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import rows
from bench import timing as bench_timing
from bench import upload as bench_upload
from bench.timing import measure

CPU = torch.device("cpu")


def test_memory_is_that_of_the_rounds_and_of_the_largest_of_them() -> None:
    """300 MiB before the rounds, then 20, 120 and 20 in them."""
    sizes = iter((300, 20, 120, 20))

    def run() -> int:
        return len(np.ones(next(sizes) << 17)) and 1

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"this system does not forget the largest memory of a process: {error}")
    before = bench_timing.peak_bytes()
    rate = measure({"some": run}, rounds=3, seconds=0.0, device=CPU)["some"]
    assert before + (90 << 20) < rate.memory_bytes < before + (200 << 20)


def test_memory_is_forgotten_before_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the system allows it or not: by what it would count."""
    held, peaks = 0, [0]

    def run() -> int:
        nonlocal held
        held = next(sizes)
        peaks[0] = max(peaks[0], held)
        return 1

    sizes = iter((300, 20, 120, 30))
    monkeypatch.setattr(bench_timing, "forget_peak", lambda: peaks.__setitem__(0, 0))
    monkeypatch.setattr(bench_timing, "peak_bytes", lambda: peaks[0])
    assert measure({"some": run}, rounds=3, seconds=0.0, device=CPU)["some"].memory_bytes == 120


def test_uploads_are_from_and_to_memory_that_no_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    copy, seen = bench_upload._copy, []

    def noted(batches: torch.Tensor, to: torch.Tensor) -> object:
        seen.append((batches.clone(), to))
        return copy(batches, to)

    monkeypatch.setattr(bench_upload, "_copy", noted)
    bench_upload.upload(batch_size=8, size=64, rounds=1, seconds=0.001, device="cpu")
    ((batches, to),) = seen
    assert batches.nbytes == to.nbytes > bench_upload.last_cache_bytes() >= 32 << 20
    assert batches.shape[1:] == (8, 64, 64, 3)
    assert batches.all(), "memory that was never written to is one page"
    with (tmp_path / "upload.csv").open() as file:
        assert f"buffers={len(batches)}" in next(csv.DictReader(file))["options"]


def test_batches_take_turns() -> None:
    batches, to = torch.arange(12).view(3, 4), torch.zeros(3, 4, dtype=torch.int64)
    run = bench_upload._copy(batches, to)
    for count in (1, 2, 3):
        assert run() == 4
        assert torch.equal(to[:count], batches[:count])
        assert not to[count:].any()
    to.zero_()
    run()
    assert torch.equal(to[0], batches[0])
    assert not to[1:].any()


def test_the_last_cache_is_the_largest_that_the_system_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_upload, "_CACHES", tmp_path)
    assert bench_upload.last_cache_bytes() == 32 << 20
    for number, size in enumerate(("32K", "2048K", "98304K", "unknown")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(f"{size}\n")
    assert bench_upload.last_cache_bytes() == 96 << 20
    assert bench_upload.num_buffers(1 << 20) == 193
