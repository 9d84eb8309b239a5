"""A file is complete or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from loaders import files
from loaders.files import new_folder, write_atomically


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


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:  # as on a system without renameat2
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    target = tmp_path / "above" / "exported"
    for number in (b"1", b"2"):
        with new_folder(target) as folder:
            (folder / f"only{number.decode()}").write_bytes(number)
            assert target.exists() == (number == b"2")
        assert content(target) == {f"only{number.decode()}": number}
        assert os.listdir(target.parent) == ["exported"]
    (tmp_path / "link").symlink_to(target)
    with new_folder(tmp_path / "link") as folder:
        (folder / "only3").write_bytes(b"3")
    assert content(target) == {"only3": b"3"}
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_fails_half_way_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "exported"
    target.mkdir()
    (target / "old").write_bytes(b"old")

    def fill() -> None:
        with new_folder(target) as folder:
            (folder / "half").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert content(target) == {"old": b"old"}
    assert os.listdir(tmp_path) == ["exported"]


def test_what_a_killed_process_left_is_removed_and_what_another_one_fills_is_not(tmp_path: Path) -> None:
    left = tmp_path / f".exported.{'0' * 32}.tmp"
    left.mkdir()
    (left / "half").write_bytes(b"half")
    with new_folder(tmp_path / "exported") as one, new_folder(tmp_path / "exported") as other:
        assert not left.exists()
        assert one != other
        assert one.is_dir()
        (one / "mine").write_bytes(b"1")
        (other / "mine").write_bytes(b"2")
    assert content(tmp_path / "exported") == {"mine": b"1"}  # the one that ended last
    assert os.listdir(tmp_path) == ["exported"]
