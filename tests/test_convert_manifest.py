"""What a manifest says, against what other tools find in its source and in its files."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data
from conversions import Capture, convert, names, sentence
from PIL import Image, features

from convert.progress import Progress
from loaders import open_store
from twistnet.__main__ import main

pytest_plugins = ("conversions",)

PIXELS = skimage.data.coffee()


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of 5, 2 and 3 images in train, one of which is no JPEG and one no image; a val of its own."""
    root = tmp_path_factory.mktemp("odd")
    sizes = {"ant": [(90, 60), (61, 99), (50, 50), (64, 80), (33, 70)], "bee": [(40, 41), (200, 30)], "cow": [(70, 70)]}
    for split in ("train", "val"):
        for name, found in sizes.items():
            (root / split / name).mkdir(parents=True)
            for number, (height, width) in enumerate(found):
                pixels = Image.fromarray(PIXELS[:height, :width])
                pixels.save(root / split / name / f"{number}.jpg", quality=90)
    Image.fromarray(PIXELS[:45, :55]).quantize(16).save(root / "train" / "cow" / "palette.png")
    (root / "train" / "cow" / "text.jpg").write_text("no image")
    return root


def manifest_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def entry(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"name": path.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_manifest_by_hand(odd: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert convert(odd, out, "--max_bad=0.2", "--seed=3", "--splits=train") == 0
    found = manifest_of(out)
    split = found["splits"].pop("train")
    assert found == {
        "format": 2,
        "images": "original",
        "quality": 90,
        "exif": "ignored",
        "seed": 3,
        "classes": ["ant", "bee", "cow"],
        "splits": {},
        "subsets": {},
        "quarantine": entry(out / "quarantine.jsonl"),
    }
    images = {
        name.partition(".")[0]: tar.extractfile(name)
        for path in sorted(out.glob("*.tar"))
        for tar in [tarfile.open(path)]
        for name in tar.getnames()
        if name.endswith(".jpg")
    }
    data = {key: file.read() for key, file in images.items() if file}
    assert len(split.pop("fingerprint")) == 64
    assert split == {
        "source": "tree",
        "versions": {
            "twistnet": version("twistnet"),
            "libjpeg_turbo": features.version("libjpeg_turbo"),
            "pillow": version("pillow"),
        },
        "samples": 9,
        "per_class": [5, 2, 2],
        "bytes": sum(map(len, data.values())),
        "largest": [200, 99],
        "repaired": {"PNG P": 1},
        "repaired_list": entry(out / "train.repaired.jsonl"),
        "quarantined": 1,
        "index": entry(out / "train.index.npy"),
        "shards": [entry(path) for path in sorted(out.glob("*.tar"))],
        "dali": [entry(path) for path in sorted(out.glob("*.idx"))],
        "beton": None,
    }
    (repaired,) = (out / "train.repaired.jsonl").read_text().splitlines()
    assert json.loads(repaired) == {"key": "cow/palette", "was": "PNG P"}
    (bad,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert {**json.loads(bad), "reason": ""} == {
        "split": "train",
        "key": "cow/text",
        "path": "train/cow/text.jpg",
        "reason": "",
    }


def test_another_seed_is_another_order_and_shards_mix_classes(odd: Path, tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        assert convert(odd, tmp_path / f"{seed}", "--max_bad=1", f"--seed={seed}", "--splits=train") == 0
        orders.append(np.load(tmp_path / f"{seed}" / "train.index.npy")["label"].tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == [0] * 5 + [1] * 2 + [2] * 2
    assert all(sorted(order) != order for order in orders)


def test_raw_pixels_are_those_of_what_short_side_stores(odd: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    flags = ["--images=short_side=32", "--splits=val"]
    assert convert(odd, tmp_path / "shards", *flags) == 0
    assert convert(odd, tmp_path / "raw", *flags, "--formats=beton", "--beton=raw") == 0
    jpegs, raw = open_store(tmp_path / "shards", "val"), open_store(tmp_path / "raw", "val")
    for sample in range(len(jpegs)):
        with Image.open(io.BytesIO(jpegs.read(sample))) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(raw.read(sample), expected)


def test_what_is_wrong_with_a_later_split_shows_before_the_first_is_written(
    odd: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = Path(shutil.copytree(odd, tmp_path / "tree"))
    (source / "val" / "dog").mkdir()
    shutil.copy(odd / "val" / "cow" / "0.jpg", source / "val" / "dog")
    assert convert(source, tmp_path / "out") == 1
    assert "dog" in sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_room_is_asked_for_all_splits(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    size = sum(path.stat().st_size for path in (odd / "train").rglob("*.*")) + 10 * 1792
    monkeypatch.setattr("convert.estimate.shutil.disk_usage", lambda _: SimpleNamespace(free=int(size * 1.3)))
    assert convert(odd, tmp_path / "out", "--max_bad=1") == 1
    assert "GB free" in sentence(capsys)
    assert not (tmp_path / "out").exists()
    assert convert(odd, tmp_path / "out", "--max_bad=1", "--splits=train") == 0


def test_a_set_that_lost_a_file_is_not_converted_already(odd: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert convert(odd, out, "--splits=val") == 0
    (out / "val-000001.tar").unlink()
    assert convert(odd, out, "--splits=val") == 1
    said = sentence(capsys)
    assert f"{out / 'val-000001.tar'} is missing though manifest.json names it" in said
    assert "convert into a new folder" in said


def test_check_tells_of_a_split_that_is_not_finished(odd: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert convert(odd, out) == 1  # an image of train cannot be used
    assert list(manifest_of(out)["splits"]) == ["val"]
    capsys.readouterr()
    assert main(["convert", "check", f"--data_dir={out}"]) == 1
    assert "train was begun and is not finished" in sentence(capsys)


@pytest.mark.parametrize("source", ["kaggle", "tiny", "webdataset", "dtd", "archives"])
def test_a_form_that_is_not_there_is_refused(source: str, odd: Path, tmp_path: Path, capsys: Capture) -> None:
    for command in (["convert", f"--out={tmp_path / 'out'}"], ["convert", "count"]):
        assert main([*command, f"--data_dir={odd}", f"--source={source}"]) == 1
        assert str(odd) in sentence(capsys)
    assert names(tmp_path) == set()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    clock = iter([0.0, 30.0, 61.0, 90.0, 125.0])
    monkeypatch.setattr("convert.progress.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with Progress(10_000, desc="train") as progress:
        for count in (300, 310, 290, 350):
            progress.update(count, "7 MB/s")
    assert capsys.readouterr().err.splitlines() == [
        "train: 610 of 10,000 img, 10 img/s, 7 MB/s, 15 min 39 s left",
        "train: 1,250 of 10,000 img, 10 img/s, 7 MB/s, 14 min 35 s left",
    ]
