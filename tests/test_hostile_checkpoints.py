"""Checkpoints and weights of somebody else's making: nothing in them runs, or unpacks beyond itself."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoints import state

from loaders import InputError
from twistnet import checkpoints, weights
from twistnet.checkpoints import LATEST, PREVIOUS, load_checkpoint, newest


@pytest.fixture
def said() -> list[str]:
    return []


def test_hostile_files_run_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": checkpoints.FORMAT, **state(1), "model": Hostile()}, tmp_path / LATEST)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / LATEST)
    assert not (tmp_path / "ran").exists()


def swollen(path: Path, to: Path) -> Path:
    """The same archive with a deflated entry that unpacks to 256 MiB, a hundred times what torch would need."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("latest/data/99", bytes(1 << 28), zipfile.ZIP_DEFLATED)
    return to


def overlapping(path: Path, to: Path) -> Path:
    """The same archive, whose list of entries names the largest of them a thousand times."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        largest = max(target.infolist(), key=lambda each: each.file_size)
        target.filelist += [copied(largest, f"latest/data/{number}") for number in range(100, 1100)]
        target._didModify = True  # type: ignore[attr-defined]
    return to


def copied(entry: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.header_offset, found.CRC = entry.header_offset, entry.CRC
    found.file_size = found.compress_size = entry.file_size
    return found


@pytest.mark.parametrize("make", [swollen, overlapping])
def test_what_unpacks_to_more_than_the_file_is_not_unpacked(
    tmp_path: Path, make: Callable[[Path, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"format": checkpoints.FORMAT, **state(1)}, tmp_path / "whole.pt")
    hostile = make(tmp_path / "whole.pt", tmp_path / LATEST)
    unpacked: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *given, **_: unpacked.append(given))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", unpacked.append)
    with pytest.raises(InputError, match=r"cannot be read as a checkpoint \(ValueError: .* bytes, more than the file"):
        load_checkpoint(hostile)
    with pytest.raises(InputError, match="cannot be read as weights"):
        weights.load(torch.nn.Linear(1, 1), hostile)
    assert unpacked == []


DATA = state(1)["data"]
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "recipe": ({"recipe": 5}, "holds recipe as int where a run writes dict"),
    "data": ({"data": "x"}, "holds data as str where a run writes dict"),
    "no data": ({"data": {}}, "holds data's train_split as NoneType where a run writes str"),
    "total batch": ({"data": DATA | {"total_batch": "a"}}, "holds data's total_batch as str where a run writes int"),
    "no batch": ({"data": DATA | {"total_batch": 0}}, "holds data's total_batch 0 where a run writes at least 1"),
    "format": ({"format": torch.zeros(2)}, r"has format tensor\(\[0., 0.\]\), this version reads 3"),
    "epoch": ({"epoch": -1}, "holds epoch -1 where a run writes at least 0"),
    "step": ({"step_in_epoch": True}, "holds step_in_epoch as bool where a run writes int"),
    "model": ({"model": None}, "holds model as NoneType where a run writes dict"),
    "buffers": ({"buffers": [0.0]}, "holds buffers as list where a run writes Tensor"),
    "optimiser": ({"optimiser": {}}, "holds optimiser's state as NoneType where a run writes dict"),
    "publish_to": ({"publish_to": 3}, "holds publish_to as int where a run writes str or NoneType"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_no_run_writes_is_named_and_skipped(tmp_path: Path, said: list[str], what: str) -> None:
    changes, message = MALFORMED[what]
    torch.save({"format": checkpoints.FORMAT, **state(1)}, tmp_path / PREVIOUS)
    torch.save({"format": checkpoints.FORMAT, **state(2), **changes}, tmp_path / LATEST)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(tmp_path / LATEST)
    assert "\n" not in str(caught.value)
    path, found = newest(tmp_path, said.append) or (None, {})
    assert (path, found["step_in_epoch"]) == (tmp_path / PREVIOUS, 1)
    assert len(said) == 1
    assert "Skipped" in said[0]
