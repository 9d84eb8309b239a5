"""A file is complete or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from loaders.files import write_atomically


def test_the_file_gets_its_content_and_nothing_is_left_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_atomically(path, lambda file: file.write(b"first"))
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_a_failure_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the new")
        file.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["best.pt"]


def test_the_old_file_is_whole_while_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"old")
    seen = []

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())
        assert Path(file.name).parent == tmp_path  # os.replace is atomic only inside one file system

    with path.open("rb") as reader:
        write_atomically(path, write)
        assert reader.read() == b"old"  # whoever is reading goes on reading the old file
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomically(tmp_path / "weights.pt", lambda file: file.write(b""))
    finally:
        os.umask(previous)
    assert (tmp_path / "weights.pt").stat().st_mode & 0o777 == 0o640


def test_content_and_name_are_synced_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest.pt"
    synced = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), path.exists()))
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda file: file.write(b"content"))
    (file, before), (folder, after) = synced
    assert (file.parent, before) == (tmp_path, False)
    assert (folder, after) == (tmp_path, True)
