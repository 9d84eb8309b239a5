"""A disk that is full for a while costs a run nothing: neither its end nor a row of its log."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training import pretrain

from twistnet import checkpoints
from twistnet.reporting import Report
from twistnet.run_folder import RunFolder

STEPS = 12  # an epoch of 51 images, 4 a step


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; the test is skipped where it cannot be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting takes rights: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    path = folder / "others"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return path


def test_a_run_goes_on_while_the_disk_is_full(
    tree: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From before the first checkpoint until the second epoch has begun."""
    monkeypatch.setattr(checkpoints, "_RETRY_S", (0.1,))
    report, told = Report.steps, []

    def steps(self: Report, row: dict[str, Any], *rest: Any) -> None:
        told.append(row["step"])
        if row["step"] == 2:
            fill(small_disk)
        if row["step"] == STEPS + 6:
            (small_disk / "others").unlink()
        report(self, row, *rest)

    monkeypatch.setattr(Report, "steps", steps)
    run = small_disk / "run"
    flags = ("--batch_size=4", "--log_every=1", "--checkpoint_minutes=0", f"--checkpoint_dir={run}", "--no_publish")
    assert pretrain(tree, *flags) == 0
    out = capsys.readouterr().out
    waiting = "[Warning] log.jsonl could not be written (No space left on device): training goes on, and its rows are"
    assert out.count(waiting) == 1
    assert out.count("log.jsonl is written after all.") == 1
    assert "latest.pt could not be written (No space left on device): training goes on" in out
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "steps"] == told
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2]
    assert torch.load(run / "latest.pt", weights_only=True)["epoch"] == 2


def test_what_the_disk_took_of_a_row_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for half of a row, then for nothing, then for all."""
    said: list[str] = []
    folder = RunFolder(tmp_path, said.append)
    right, room = os.write, [10**6]

    def write(file: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = right(file, data[: room[0]])
        room[0] -= taken
        return taken

    folder.append({"step": 1})
    folder.append_bad_step({"step": 1})
    before = [path.read_bytes() for path in (folder.log, folder.bad_steps)]
    monkeypatch.setattr(os, "write", write)
    for step in (2, 3):
        room[0] = 6
        folder.append({"step": step})
        room[0] = 6
        folder.append_bad_step({"step": step})
        assert [path.read_bytes() for path in (folder.log, folder.bad_steps)] == before
    assert [line.partition(" could")[0] for line in said] == ["[Warning] log.jsonl", "[Warning] bad_steps.jsonl"]
    room[0] = 10**6
    folder.append({"step": 4})
    folder.append_bad_step({"step": 4})
    assert said[2:] == ["log.jsonl is written after all.", "bad_steps.jsonl is written after all."]
    for path in (folder.log, folder.bad_steps):
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": n} for n in (1, 2, 3, 4)]


def test_rows_that_wait_at_the_end_are_written_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    right = os.write
    one, other = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "other")
    for folder in (one, other):
        folder.make()
        monkeypatch.setattr(os, "write", full)
        folder.append({"step": 1})
        if folder is one:
            monkeypatch.setattr(os, "write", right)
        folder.release()
    assert one.rows() == [{"step": 1}]
    assert other.rows() == []
    lost = f"[Warning] the last 1 rows of {other.log} are lost (No space left on device)."
    assert [line for line in capsys.readouterr().out.splitlines() if "lost" in line] == [lost]


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.bad_steps.write_text('{"step": 1}\n{"st')
    folder.append_bad_step({"step": 3})
    assert folder.bad_steps.read_text() == '{"step": 1}\n{"st\n{"step": 3}\n'
