"""What a checkpoint costs is measured beside torch.save, on the state that a run saves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from training import pretrain

from bench import rows
from bench.checkpoint import NONE, OURS, PEER, checkpoint, checkpoint_rates


def test_a_checkpoint_is_measured_beside_its_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    checkpoint(model="test_resnet", batch_size=4, size=32, every=2, rounds=2, device="cpu")
    with (tmp_path / "checkpoint.csv").open(newline="") as file:
        found = {row["what"]: row for row in csv.DictReader(file)}
    assert list(found) == [OURS, PEER, NONE]
    assert all(float(row["images_per_s"]) > 0 for row in found.values())
    assert float(found[NONE]["stall_ms"]) == float(found[NONE]["call_ms"]) == 0
    assert float(found[PEER]["call_ms"]) > 0
    assert "% of a step" in capsys.readouterr().out


def test_both_write_the_same_state(tmp_path: Path) -> None:
    checkpoint_rates(torch.device("cpu"), tmp_path, "test_resnet", 4, 32, 1, 1)
    ours, peer = (torch.load(tmp_path / name, weights_only=True) for name in ("latest.pt", "peer.pt"))
    assert ours.keys() - {"format"} == peer.keys()
    assert ours["model"].keys() == peer["model"].keys()
    shapes = [
        [value.shape for moments in each["optimiser"]["state"].values() for value in moments.values()]
        for each in (ours, peer)
    ]
    assert shapes[0] == shapes[1]
    assert ours["buffers"].shape == peer["buffers"].shape


def test_it_is_all_that_a_run_saves(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes of all tensors, of the guide's recipe with the same model."""
    monkeypatch.chdir(tmp_path)
    flags = ("--recipe=guide", "--policy=none", "--epochs=1", f"--checkpoint_dir={tmp_path / 'run'}", "--no_publish")
    assert pretrain(tree, *flags) == 0
    checkpoint_rates(torch.device("cpu"), tmp_path, "test_resnet", 4, 32, 1, 1)
    bench, run = (torch.load(folder / "latest.pt", weights_only=True) for folder in (tmp_path, tmp_path / "run"))
    assert tensors(bench) == tensors(run)


def tensors(state: Any, name: str = "") -> dict[str, int]:
    """Dimensions by name: of the classifier's tensors lengths differ, for the tree has three classes."""
    if isinstance(state, torch.Tensor):
        return {name: state.ndim}
    found: dict[str, int] = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        found |= tensors(value, f"{name}.{key}")
    return found
