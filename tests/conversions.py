"""Calls of `twistnet convert` and what they leave, for tests of what goes wrong.

A test module takes the fixtures by `pytest_plugins = ("conversions",)`, and imports functions from here before that,
when pytest can rewrite no assertion any more, which is no matter: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import write_tree
from test_convert_images import encoded, photograph

from twistnet.__main__ import main

Capture = pytest.CaptureFixture[str]


def convert(source: Path, out: Path, *flags: str) -> int:
    """With three shards, unless the flags say otherwise."""
    shards = [] if any(flag.startswith("--min_shards") for flag in flags) else ["--min_shards=3"]
    return main(["convert", f"--data_dir={source}", f"--out={out}", "--workers=1", *shards, *flags])


def sentence(capture: Capture) -> str:
    """What a failed command has to say: one line, one sentence."""
    lines = capture.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(".")
    assert "Traceback" not in lines[0]
    return lines[0]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def quarantine(folder: Path) -> dict[str, str]:
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}


def webdataset_tar(path: Path, *members: tarfile.TarInfo | str) -> Path:
    """A WebDataset tar with a good sample, then these members."""
    path.parent.mkdir(parents=True)
    image = encoded(photograph(40, 50))
    with tarfile.open(path, "w") as tar:
        for member in ("good.jpg", "good.cls", *members):
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.type == tarfile.REGTYPE:
                data = b"0" if info.name.endswith(".cls") else image
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                tar.addfile(info)
    return path


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of 3 classes."""
    return write_tree(tmp_path_factory.mktemp("images") / "tree", {"val": 10})


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    assert convert(images, out) == 0
    return out


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> Path:
    """A copy of the tree, to damage."""
    return Path(shutil.copytree(images, tmp_path / "tree"))
