"""`twistnet convert check`: what is whole, and what is not, named by key, file and offset."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conversions import Capture, convert, flip, sentence

from loaders.beton import ALLOCATION, HEADER
from twistnet.__main__ import main

pytest_plugins = ("conversions",)


def checked(folder: Path, *flags: str) -> int:
    return main(["convert", "check", f"--data_dir={folder}", "--workers=2", *flags])


def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def test_check_finds_a_whole_set_whole(whole: Path, capsys: Capture) -> None:
    assert checked(whole) == 0
    assert checked(whole, "--full") == 0
    assert "30 samples" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["tar", "idx", "index.npy"])
@pytest.mark.parametrize("change", ["cut", "missing"])
def test_check_finds_files_cut_or_missing(
    suffix: str, change: str, whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = copied(whole, tmp_path)
    path = sorted(out.glob(f"*.{suffix}"))[-1]
    if change == "cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    assert checked(out) == 1
    assert str(path) in sentence(capsys)


def test_check_finds_a_flipped_byte(whole: Path, tmp_path: Path, capsys: Capture) -> None:
    """Of two damaged images the first is named, by key, shard and offset."""
    out = copied(whole, tmp_path)
    shards = sorted(out.glob("*.tar"))
    places = []
    for shard, image in ((shards[2], 0), (shards[1], 4), (shards[1], 5)):
        with tarfile.open(shard) as tar:
            member = [member for member in tar if member.name.endswith(".jpg")][image]
        places.append(member)
        flip(shard, member.offset_data + member.size // 2)
    assert checked(out) == 0  # sizes and structure alone
    assert checked(out, "--full") == 1
    said = sentence(capsys)
    assert f"{shards[1].name}:{places[1].name}" in said
    assert f"{places[1].offset_data:,}" in said
    assert "CRC-32" in said


@pytest.mark.parametrize("name", ["val-000001.idx", "val-000001.tar", "val.index.npy"])
def test_check_finds_other_flipped_bytes(name: str, whole: Path, tmp_path: Path, capsys: Capture) -> None:
    """Outside of the images: in DALI's index, a tar's last block, a label of the index."""
    out = copied(whole, tmp_path)
    if name == "val.index.npy":
        rows = np.load(out / name)
        rows["label"][3] = (rows["label"][3] + 1) % 3
        np.save(out / name, rows)
    else:
        flip(out / name, (out / name).stat().st_size - 1)
    assert checked(out) == 0
    assert checked(out, "--full") == 1
    said = sentence(capsys)
    assert str(out / name) in said
    assert "SHA-256" in said


@pytest.mark.parametrize(
    ("column", "value", "full"),
    [
        ("offset", 1 << 40, False),
        ("shard", 3, False),
        ("label", 3, False),
        ("offset", 512 * 3, True),
        ("height", 7, True),
    ],
)
def test_check_finds_a_wrong_index(
    column: str, value: int, full: bool, whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = copied(whole, tmp_path)
    rows = np.load(out / "val.index.npy")
    rows[column][17] = value
    np.save(out / "val.index.npy", rows)
    assert checked(out, *(["--full"] if full else [])) == 1
    assert "sample 17" in sentence(capsys)


# FFCV's file


@pytest.fixture(scope="module")
def betons(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A beton beside shards, one of JPEGs alone and one of pixels alone."""
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    root = tmp_path_factory.mktemp("betons")
    forms = {"beside": ("shards,beton", "jpg"), "jpg": ("beton", "jpg"), "raw": ("beton", "raw")}
    for name, (formats, mode) in forms.items():
        assert convert(images, root / name, f"--formats={formats}", f"--beton={mode}") == 0
    return {name: root / name for name in forms}


def allocations(file: Path) -> np.ndarray:
    """Where the samples of a beton are, as its own table says."""
    table = int(np.fromfile(file, HEADER, 1)["table"][0])
    found = np.fromfile(file, ALLOCATION, offset=table)
    return found[np.argsort(found["sample"])]


@pytest.mark.parametrize("form", ["beside", "jpg", "raw"])
def test_check_finds_a_whole_beton_whole(form: str, betons: dict[str, Path], capsys: Capture) -> None:
    assert checked(betons[form]) == 0
    assert checked(betons[form], "--full") == 0
    assert "30 samples" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["beside", "jpg"])
def test_check_names_a_betons_damaged_sample(
    form: str, betons: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = copied(betons[form], tmp_path)
    place = allocations(out / "val.beton")[11]
    flip(out / "val.beton", int(place["offset"] + place["length"] // 2))
    assert checked(out) == 0
    assert checked(out, "--full") == 1
    said = sentence(capsys)
    assert f"{out / 'val.beton[11]'}, sample 11 of val at byte {place['offset']:,}, is damaged" in said
    assert "CRC-32" in said


def test_check_finds_other_pixels(betons: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    out = copied(betons["raw"], tmp_path)
    flip(out / "val.beton", int(allocations(out / "val.beton")[11]["offset"]))
    assert checked(out) == 0
    assert checked(out, "--full") == 1
    assert "val.beton has the SHA-256" in sentence(capsys)


@pytest.mark.parametrize("form", ["beside", "raw"])
def test_a_quick_check_looks_into_a_beton(form: str, betons: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    out = copied(betons[form], tmp_path)
    flip(out / "val.beton", 0)
    assert checked(out) == 1
    assert "has format" in sentence(capsys)


def test_check_decodes_a_beton_without_shards(betons: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    """Bytes that are what the index says and no image all the same."""
    out = copied(betons["jpg"], tmp_path)
    place = allocations(out / "val.beton")[4]
    with (out / "val.beton").open("r+b") as file:
        file.seek(int(place["offset"]))
        file.write(bytes(int(place["length"])))
    rows = np.load(out / "val.index.npy")
    rows["checksum"][4] = zlib.crc32(bytes(int(place["length"])))
    np.save(out / "val.index.npy", rows)
    assert checked(out) == 0
    assert checked(out, "--full") == 1
    assert "sample 4 of val" in sentence(capsys)
