"""Checkpoints are written beside training, are whole or absent, and the newest whole one is found again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from loaders import InputError, files
from twistnet import checkpoints, weights
from twistnet.checkpoints import BEST, KEYS, LATEST, PREVIOUS, Checkpoints, load_checkpoint, newest, readable

Write = Callable[[BinaryIO], object]


def state(step: int, size: int = 1000) -> dict[str, Any]:
    weights = torch.full((size,), float(step))
    moments = {"momentum": torch.full((3, 4, 5, 5), step).to(memory_format=torch.channels_last), "lr": 0.1 * step}
    data = {"train_split": "train", "val_split": "val", "fingerprint": "a", "val_fingerprint": "b"}
    rest: dict[str, Any] = dict.fromkeys(KEYS) | {
        **{"buffers": torch.zeros(1, 2), "scaler": {}, "dtype": "torch.float32", "best_top1": -1.0, "best_epoch": 0},
        **{"recipe": {}, "data": data | {"classes": ["cat"], "samples": 1, "total_batch": 1}},
        "meter": {"epoch_sums": [0.0] * 4, "images": 0.0, "seconds": 0.0},
    }
    optimiser = {"state": moments, "param_groups": []}
    return rest | {"model": {"weight": weights}, "optimiser": optimiser, "epoch": 0, "step_in_epoch": step}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def writer(tmp_path: Path, said: list[str]) -> Iterator[Checkpoints]:
    found = Checkpoints(tmp_path, said.append)
    yield found
    found.close()


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step_in_epoch"])


def test_names_are_kept_as_asked_for(writer: Checkpoints, tmp_path: Path, said: list[str]) -> None:
    for step, names in enumerate([[], [BEST], [], ["epoch-0003.pt"], []]):
        writer.save(state(step), [LATEST, *names])
        writer.finish(60)
    steps = {path.name: step_of(path) for path in tmp_path.iterdir()}
    assert steps == {LATEST: 4, PREVIOUS: 3, BEST: 1, "epoch-0003.pt": 3}, "and nothing half-written"
    assert (tmp_path / PREVIOUS).samefile(tmp_path / "epoch-0003.pt"), "one file of two names"
    assert said == []
    writer.save(state(5), [LATEST, BEST])  # the last of all: what is linked after it would be a file that is gone
    writer.finish(60)
    assert {path.name: step_of(path) for path in tmp_path.iterdir()} == steps | {LATEST: 5, PREVIOUS: 4, BEST: 5}
    assert said == []


def test_there_is_a_latest_at_every_moment(
    writer: Checkpoints, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the new one cannot take its name, the old one still has it."""
    writer.save(state(1), [LATEST])
    writer.finish(60)
    right, refused = os.replace, threading.Event()

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == LATEST and not refused.is_set():
            refused.set()
            assert step_of(tmp_path / LATEST) == 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        right(source, target)

    monkeypatch.setattr(checkpoints, "_RETRY_S", (0.5,))
    monkeypatch.setattr(os, "replace", replace)
    writer.save(state(2), [LATEST])
    assert refused.wait(60)
    assert step_of(tmp_path / LATEST) == 1
    writer.finish(60)
    assert step_of(tmp_path / LATEST) == 2
    assert "latest.pt could not be written (Input/output error)" in said[0]


def test_what_is_written_is_the_state_when_it_was_saved(
    writer: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def late(path: Path, write: Write) -> None:
        gate.wait(60)
        files.write_atomically(path, write)

    monkeypatch.setattr(checkpoints, "write_atomically", late)
    first, second = state(1), state(2)
    expected = [torch.tensor(1.0).expand(1000).clone(), first["optimiser"]["state"]["momentum"].clone()]
    writer.save(first, [LATEST, BEST])  # returns, though nothing can be written yet
    first["model"]["weight"].zero_()
    first["optimiser"]["state"]["momentum"].zero_()
    writer.save(second, [LATEST])
    second["model"]["weight"].zero_()
    gate.set()
    writer.finish(60)
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert torch.equal(best["model"]["weight"], expected[0])
    momentum = best["optimiser"]["state"]["momentum"]
    assert torch.equal(momentum, expected[1])
    assert momentum.is_contiguous(memory_format=torch.channels_last), "as the optimiser's kernels want it"
    assert torch.load(tmp_path / LATEST, weights_only=True)["model"]["weight"].unique().tolist() == [2.0]


def test_memory_is_used_again_and_never_twice_at_once(writer: Checkpoints, tmp_path: Path) -> None:
    for step in range(50):
        writer.save(state(step, size=10_000), [LATEST] + [BEST] * (step % 7 == 0))
        if step % 5 == 0:
            writer.finish(60)
            latest, best = (torch.load(tmp_path / name, weights_only=True) for name in (LATEST, BEST))
            assert latest["model"]["weight"].unique().tolist() == [step]
            assert best["model"]["weight"].unique().tolist() == [step - step % 7]
    writer.finish(60)
    assert len({id(buffers) for buffers in writer._spare}) == len(writer._spare) <= 4, "written, best, latest, next"


def test_a_full_disk_costs_nothing_that_was_there(
    writer: Checkpoints, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.save(state(1), [LATEST])
    writer.save(state(2), [LATEST])
    writer.finish(60)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    is_full = True

    def sync(_: int) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "_RETRY_S", (0.05,))
    monkeypatch.setattr(os, "fsync", sync)
    writer.save(state(3), [LATEST, BEST])
    with pytest.raises(InputError, match=r"latest\.pt and best\.pt of .* could not be written \(No space left"):
        writer.finish(1)
    assert len(said) > 1, "tried again"
    writer.save(state(4), [LATEST])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".pt"} == before
    is_full = False
    writer.finish(60)
    assert [step_of(tmp_path / name) for name in (LATEST, PREVIOUS, BEST)] == [4, 2, 3], "the best waits its turn too"
    assert "could not be written (No space left on device): training goes on" in said[0]
    assert said[-1].endswith("is written after all.")


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting takes rights: {mounted.stderr.decode().strip()}")
    said: list[str] = []
    writer = Checkpoints(small, said.append)
    try:
        writer.save(state(1, size=100_000), [LATEST])  # 0.4 MB
        writer.finish(60)
        writer.save(state(2, size=1_000_000), [LATEST])
        with pytest.raises(InputError, match="No space left on device"):
            writer.finish(3)
        assert step_of(small / LATEST) == 1
        assert {path.name for path in small.iterdir()} == {LATEST}
        assert "No space left on device" in said[0]
    finally:
        writer.close()
        subprocess.run(["umount", str(small)], check=True)


def test_a_defect_of_writing_is_raised_in_training(writer: Checkpoints) -> None:
    writer.save({"lock": threading.Lock()}, [LATEST])
    with pytest.raises(TypeError, match="pickle"):
        writer.finish(60)
    with pytest.raises(TypeError, match="pickle"):
        writer.save(state(1), [LATEST])


def flip_a_byte(path: Path) -> None:
    """In a tensor, where torch does not look."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 200 + entry.file_size // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    torch.save({"format": checkpoints.FORMAT, **state(1)}, tmp_path / LATEST)
    assert load_checkpoint(tmp_path / LATEST)["step_in_epoch"] == 1
    flip_a_byte(tmp_path / LATEST)
    torch.load(tmp_path / LATEST, weights_only=True)  # torch says nothing
    with pytest.raises(InputError, match=r"latest\.pt cannot be read as a checkpoint \(.*(is not what|CRC)"):
        load_checkpoint(tmp_path / LATEST)


def test_the_newest_whole_one_is_taken_and_torn_ones_are_named(tmp_path: Path) -> None:
    assert newest(tmp_path, print) is None
    for step, name in enumerate([BEST, "epoch-0002.pt", "epoch-0010.pt", PREVIOUS, LATEST]):
        torch.save({"format": checkpoints.FORMAT, **state(step)}, tmp_path / name)
    (tmp_path / "epoch-last.pt").write_bytes(b"somebody's")
    torn: list[str] = []
    for name in (LATEST, PREVIOUS, "epoch-0010.pt", "epoch-0002.pt", BEST):
        said: list[str] = []
        path, found = newest(tmp_path, said.append) or (None, {})
        assert path == tmp_path / name
        assert found["step_in_epoch"] == step_of(tmp_path / name)
        assert [line for line in said if "Skipped" in line] == said
        assert all(each in line for each, line in zip(torn, said, strict=True))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        torn.append(name)
    assert list(readable(tmp_path)) == []
    with pytest.raises(InputError, match=r"no checkpoint of .* can be read: start a new run in another folder"):
        newest(tmp_path, print)


def test_a_torn_latest_does_not_replace_the_previous_one(tmp_path: Path, said: list[str]) -> None:
    torch.save({"format": checkpoints.FORMAT, **state(1)}, tmp_path / PREVIOUS)
    (tmp_path / LATEST).write_bytes(b"torn")
    writer = Checkpoints(tmp_path, said.append, rotate=False)
    writer.save(state(2), [LATEST])
    writer.finish(60)
    assert [step_of(tmp_path / name) for name in (LATEST, PREVIOUS)] == [2, 1]
    writer.save(state(3), [LATEST])
    writer.finish(60)
    writer.close()
    assert [step_of(tmp_path / name) for name in (LATEST, PREVIOUS)] == [3, 2]


KILLED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoints import LATEST, Checkpoints, state
writer = Checkpoints(Path({folder!r}), print)
for step in range(1, 10**6):
    writer.save(state(step, size=200_000), [LATEST])
    writer.finish(60)
    print(step, flush=True)
"""


@pytest.mark.parametrize("after", [1, 2, 5])
def test_killed_at_any_moment_a_whole_one_is_there(tmp_path: Path, after: int) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(after):
        done = int(process.stdout.readline())
    process.kill()
    process.wait()
    _, found = newest(tmp_path, pytest.fail) or (None, {})
    assert found["step_in_epoch"] >= done
    assert found["model"]["weight"].unique().tolist() == [found["step_in_epoch"]]


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
    "format": ({"format": torch.zeros(2)}, r"has format tensor\(\[0., 0.\]\), this version reads 2"),
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
