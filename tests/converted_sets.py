"""Converted sets made by others' tools (tarfile, numpy, json, FFCV's own writer), for tests of what reads them.

A test module takes the fixtures by `pytest_plugins = ("converted_sets",)`. It imports functions from here before
that, when pytest can rewrite no assertion any more, which is no matter: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Written out again, not imported: the format on the disk is what the tests hold the stores to.
ROW = np.dtype("<u8,<u4,<u4,<u4,<i4,<u2,<u2")
ROW.names = ("offset", "length", "checksum", "shard", "label", "height", "width")


@dataclass(frozen=True)
class Sample:
    """An image of a tree: `key` is <class>/<stem>."""

    key: str
    data: bytes
    label: int

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, decoded by Pillow."""
        return np.asarray(Image.open(io.BytesIO(self.data)).convert("RGB"))


def samples_of(tree: Path, split: str) -> tuple[tuple[str, ...], list[Sample]]:
    """Classes and samples of a split/class/file tree, sorted."""
    classes = tuple(sorted(folder.name for folder in (tree / "train").iterdir()))
    return classes, [
        Sample(f"{name}/{file.stem}", file.read_bytes(), label)
        for label, name in enumerate(classes)
        for file in sorted((tree / split / name).iterdir())
    ]


def write_tree(root: Path, split: str, samples: Sequence[Sample]) -> Path:
    """The samples as files again."""
    for sample in samples:
        file = root / split / f"{sample.key}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sample.data)
    return root


def entry(file: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    data = file.read_bytes()
    return {"name": file.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def write_index(folder: Path, split: str, rows: np.ndarray) -> dict[str, Any]:
    file = folder / f"{split}.index.npy"
    np.save(file, rows)
    return entry(file)


def write_shards(
    folder: Path, split: str, samples: Sequence[Sample], shards: int = 3, tar_format: int = tarfile.USTAR_FORMAT
) -> dict[str, Any]:
    """WebDataset tars and their index by Python's tarfile; gives the manifest's entry of the split."""
    files, rows = [], np.zeros(len(samples), ROW)
    for shard, places in enumerate(np.array_split(np.arange(len(samples)), shards)):
        file = folder / f"{split}-{shard:06d}.tar"
        with tarfile.open(file, "w", format=tar_format) as tar:
            for place in places:
                for suffix, data in (("jpg", samples[place].data), ("cls", str(samples[place].label).encode())):
                    member = tarfile.TarInfo(f"{samples[place].key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        with tarfile.open(file) as tar:
            offsets = {member.name: member.offset_data for member in tar}
        for place in places:
            sample = samples[place]
            offset, checksum = offsets[f"{sample.key}.jpg"], zlib.crc32(sample.data)
            rows[place] = (offset, len(sample.data), checksum, shard, sample.label, *sample.pixels.shape[:2])
        files.append(entry(file))
    return {"samples": len(samples), "index": write_index(folder, split, rows), "shards": files, "beton": None}


def write_manifest(
    folder: Path,
    classes: Sequence[str],
    splits: dict[str, Any],
    subsets: dict[str, tuple[str, Sequence[int]]] | None = None,
) -> Path:
    """manifest.json, and a file of ids for every subset."""
    listed = {}
    for name, (split, ids) in (subsets or {}).items():
        file = folder / f"{name}.ids.npy"
        np.save(file, np.array(ids, dtype=np.int64))
        listed[name] = {"split": split, "ids": entry(file)}
    values = {"format": 2, "classes": list(classes), "splits": splits, "subsets": listed}
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def write_beton(file: Path, samples: Sequence[tuple[np.ndarray, int]], mode: str, label_first: bool = False) -> Path:
    """A .beton by FFCV's own writer, from pixels and labels; `mode` is "jpg" or "raw". Skips where FFCV is not."""
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=90), "label": IntField()}
    rows = list(samples)
    if label_first:
        fields = dict(reversed(fields.items()))
        rows = [(label, pixels) for pixels, label in samples]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        DatasetWriter(str(file), fields, num_workers=1).from_indexed_dataset(rows)
    return file


def as_ffcv_encodes(sample: Sample) -> Sample:
    """The sample with the JPEG that OpenCV makes of its pixels, as FFCV's writer does."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV", exc_type=ImportError)
    done, data = cv2.imencode(".jpg", sample.pixels[:, :, ::-1], [int(cv2.IMWRITE_JPEG_QUALITY), 90])
    assert done
    return replace(sample, data=data.tobytes())


def copy_of(folder: Path, to: Path) -> Path:
    """A copy that a test may damage."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


FOLD = list(range(1, 51, 3))  # of the 51 training samples of conftest's tree


@pytest.fixture(scope="session")
def shards_set(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conftest's tree as shards: train in three, val in one, and the subset "fold1" of train."""
    folder = tmp_path_factory.mktemp("shards")
    classes, train = samples_of(tree, "train")
    _, val = samples_of(tree, "val")
    splits = {"train": write_shards(folder, "train", train), "val": write_shards(folder, "val", val, shards=1)}
    return write_manifest(folder, classes, splits, {"fold1": ("train", FOLD)})


@pytest.fixture(scope="session")
def beton_set(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conftest's training split as a converted set that has a JPEG beton and no shards."""
    folder = tmp_path_factory.mktemp("beton")
    classes, train = samples_of(tree, "train")
    file = write_beton(folder / "train.beton", [(sample.pixels, sample.label) for sample in train], "jpg")
    rows = np.zeros(len(train), ROW)
    rows["label"] = [sample.label for sample in train]
    index = write_index(folder, "train", rows)
    split = {"samples": len(train), "index": index, "shards": [], "beton": entry(file)}
    return write_manifest(folder, classes, {"train": split}, {"fold1": ("train", FOLD)})


@pytest.fixture(scope="session")
def raw_beton(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conftest's training split as a bare .beton of raw pixels."""
    file = tmp_path_factory.mktemp("raw") / "train.beton"
    return write_beton(file, [(sample.pixels, sample.label) for sample in samples_of(tree, "train")[1]], "raw")
