"""Checkpoints are written beside training, are whole or absent, and the newest whole one is found again."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from loaders import InputError, files
from twistnet import checkpoints
from twistnet.checkpoints import BEST, KEYS, LATEST, PREVIOUS, Checkpoints, load_checkpoint, newest, readable
from twistnet.signals import Noted, Stopped

Write = Callable[[BinaryIO], object]


def state(step: int, size: int = 1000) -> dict[str, Any]:
    weights = torch.full((size,), float(step))
    moments = {"momentum": torch.full((3, 4, 5, 5), step).to(memory_format=torch.channels_last), "lr": 0.1 * step}
    data = {"train_split": "train", "val_split": "val", "fingerprint": "a", "val_fingerprint": "b"}
    rest: dict[str, Any] = dict.fromkeys(KEYS) | {
        **{"buffers": torch.zeros(1, 2), "scaler": {}, "dtype": "torch.float32", "best_top1": -1.0, "best_epoch": 0},
        **{"recipe": {}, "data": data | {"classes": ["cat"], "samples": 1, "total_batch": 1}},
        "meter": {"epoch_sums": [0.0] * 4, "images": 0.0, "seconds": 0.0, "run_s": 0.0},
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
    while not said:
        time.sleep(0.01)
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


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)


def test_at_the_end_a_full_disk_promises_nothing_that_is_not_so(
    writer: Checkpoints, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    monkeypatch.setattr(checkpoints, "_RETRY_S", (0.4,))
    writer.save(state(1), [LATEST])
    while not said:
        time.sleep(0.01)
    assert said == [
        "[Warning] latest.pt could not be written (No space left on device): training goes on, it is tried again in "
        "0 s."
    ]
    with pytest.raises(InputError) as refused:
        writer.finish(1)
    assert str(refused.value) == (
        f"latest.pt of {tmp_path} could not be written (No space left on device): make room or choose another disk, "
        "and start again; there is no checkpoint of before."
    )
    assert len(said) > 1
    for line in said[1:]:
        assert re.fullmatch(
            r"\[Warning\] latest\.pt could not be written \(No space left on device\): it is tried again in 0 s, for "
            r"[01] s more at most\.",
            line,
        )


@pytest.mark.parametrize("has_one", [False, True])
def test_a_signal_ends_the_wait_for_a_full_disk(
    writer: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_one: bool
) -> None:
    if has_one:
        writer.save(state(1), [LATEST])
        writer.finish(60)
    full_disk(monkeypatch)
    writer.save(state(2), [LATEST])
    stopping = Noted()
    threading.Timer(0.5, lambda: setattr(stopping, "signal", signal.SIGTERM)).start()
    start = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        writer.finish(300, stopping)
    assert time.monotonic() - start < 60
    go_on = f"go on with --resume {tmp_path / LATEST}" if has_one else "nothing was saved"
    assert (stopped.value.code, str(stopped.value)) == (
        143,
        f"before latest.pt of {tmp_path} could be written (No space left on device): {go_on}",
    )


def test_a_signal_waits_for_what_can_be_written(writer: Checkpoints, tmp_path: Path) -> None:
    stopping = Noted()
    stopping.signal = signal.SIGTERM
    writer.save(state(1, size=1_000_000), [LATEST])
    writer.finish(60, stopping)
    assert step_of(tmp_path / LATEST) == 1


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


def test_a_file_is_called_what_it_is(tmp_path: Path) -> None:
    torch.save({"format": checkpoints.FORMAT, **state(1)}, tmp_path / PREVIOUS)
    whole = (tmp_path / PREVIOUS).read_bytes()
    latest = tmp_path / LATEST
    for content, what in (
        (b"", f"{latest} is empty"),
        (whole[: len(whole) // 2], f"{latest} is cut short"),
        (b"somebody's", f"{latest} cannot be read as a checkpoint (BadZipFile: File is not a zip file)"),
    ):
        latest.write_bytes(content)
        said: list[str] = []
        assert (newest(tmp_path, said.append) or [None])[0] == tmp_path / PREVIOUS
        assert said == [f"[Warning] Skipped: {what}."], "without advice, which nobody has to follow here"
        with pytest.raises(InputError, match=re.escape(f"{what}: name another, or auto.")):
            load_checkpoint(latest)


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
