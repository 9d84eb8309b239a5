"""The miniature of DTD: DTD's own layout, real photographs, and no pixel shared over splits or with pretraining."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_photographs import digests, files_below, photograph_file, share_a_pixel
from torchvision.datasets import DTD

from convert.photographs import NUM_FOLDS, SPLITS, SUBJECTS, make_miniature_dtd
from convert.photographs.miniature import CLASSES, MANIFEST, SIDES
from loaders import InputError, open_store
from loaders.layouts import find_layout

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_miniature_dtd(tmp_path_factory.mktemp("miniature") / "dtd")


@pytest.fixture(scope="module")
def images(mini: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = json.loads((mini / MANIFEST).read_text())["images"]
    return found


def test_layout(mini: Path, images: dict[str, Entry]) -> None:
    names = [each.name for each in CLASSES]
    assert names == sorted(set(names))
    assert len(names) == 47
    expected = {f"images/{name}/{name}_{number:04d}.jpg" for name in names for number in range(1, 13)}
    lists = {f"labels/{split}{fold}.txt" for split in SPLITS for fold in range(1, 11)}
    assert files_below(mini) == {*expected, *lists, "labels/labels_joint_anno.txt", MANIFEST}
    assert set(images) == expected
    layout = find_layout(mini)
    assert layout
    assert layout.name == "dtd"


def test_torchvision_reads_it(mini: Path, tmp_path: Path) -> None:
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "dtd").symlink_to(mini, target_is_directory=True)
    for fold, split in itertools.product((1, NUM_FOLDS), SPLITS):
        read, store = DTD(tmp_path, split=split, partition=fold), open_store(mini, f"{split}{fold}")
        assert len(read) == len(store) == 47 * 4
        assert read.classes == list(store.classes)
        assert read._labels == store.labels.tolist()
        image, _ = read[5]
        assert image.mode == "RGB"


def test_images_are_small_cuts_of_photographs(mini: Path, images: dict[str, Entry]) -> None:
    for path, entry in images.items():
        with Image.open(mini / path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert all(SIDES[0] <= side <= SIDES[1] for side in image.size), (path, image.size)
            written = image.convert("L").resize((8, 8), Image.Resampling.BOX)
        with Image.open(photograph_file(entry["photograph"])) as opened:
            left, top, right, bottom = entry["box"]
            assert 0 <= left < right <= opened.width
            assert 0 <= top < bottom <= opened.height
            source = opened.convert("RGB").crop(entry["box"]).convert("L").resize((8, 8), Image.Resampling.BOX)
        if np.asarray(source).std() > 8:
            assert np.corrcoef(np.asarray(source).ravel(), np.asarray(written).ravel())[0, 1] > 0.85, path


@pytest.mark.parametrize("fold", range(1, NUM_FOLDS + 1))
def test_splits_of_a_fold_share_no_pixel(mini: Path, images: dict[str, Entry], fold: int) -> None:
    lists = {split: (mini / "labels" / f"{split}{fold}.txt").read_text().splitlines() for split in SPLITS}
    together = [name for split in SPLITS for name in lists[split]]
    assert sorted(f"images/{name}" for name in together) == sorted(images)
    for each in CLASSES:
        assert [sum(name.startswith(f"{each.name}/") for name in lists[split]) for split in SPLITS] == [4, 4, 4]
    entries = {split: [images[f"images/{name}"] for name in lists[split]] for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not any(share_a_pixel(*pair) for pair in itertools.product(entries[one], entries[other]))


def test_no_class_shares_a_pixel_with_another_or_with_the_demos_photographs() -> None:
    regions = [{"photograph": each.photograph, "box": each.region} for each in CLASSES]
    demo = [{"photograph": each.photograph, "box": box} for each in SUBJECTS for box in (each.train, each.val)]
    assert not any(share_a_pixel(*pair) for pair in itertools.combinations(regions, 2))
    assert not any(share_a_pixel(*pair) for pair in itertools.product(regions, demo))


def test_classes_can_be_told_apart(mini: Path) -> None:
    """By the nearest mean of colours and edges, of images that share no pixel: far above chance, and not wholly."""

    def features(split: str) -> tuple[np.ndarray, np.ndarray]:
        store = open_store(mini, split)
        rows = []
        for place in range(len(store)):
            with Image.open(store.key(place)) as image:
                pixels = np.asarray(image.resize((64, 64), Image.Resampling.BOX), dtype=np.float64)
            edges = [np.abs(np.diff(pixels.mean(axis=2), axis=axis)).mean() for axis in (0, 1)]
            rows.append([*pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1)), *(3 * edge for edge in edges)])
        return np.array(rows), store.labels

    train, labels = features("train1")
    test, expected = features("test1")
    centres = np.stack([train[labels == label].mean(axis=0) for label in range(47)])
    found = np.linalg.norm(test[:, None] - centres[None], axis=2).argmin(axis=1)
    assert 0.15 < (found == expected).mean() < 0.95


def test_same_seed_same_bytes_and_another_differs(mini: Path, tmp_path: Path) -> None:
    make_miniature_dtd(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(mini)
    other = digests(make_miniature_dtd(tmp_path / "other", seed=1))
    assert sum(other[path] == digest for path, digest in digests(mini).items()) < 20


def test_more_images_keep_the_others_and_whole_tiles(mini: Path, tmp_path: Path) -> None:
    out = make_miniature_dtd(tmp_path / "more", per_class=14)
    old, new = digests(mini), digests(out)
    assert all(new[path] == old[path] for path in old if path.startswith("images/"))
    entries = json.loads((out / MANIFEST).read_text())["images"]
    held = {split: (out / "labels" / f"{split}1.txt").read_text().splitlines() for split in SPLITS}
    assert sum(map(len, held.values())) == 47 * 14
    for one, other in itertools.combinations(SPLITS, 2):
        pairs = itertools.product(held[one], held[other])
        assert not any(share_a_pixel(entries[f"images/{a}"], entries[f"images/{b}"]) for a, b in pairs)


def test_it_is_kept_and_foreign_files_are_refused(mini: Path, tmp_path: Path) -> None:
    out = make_miniature_dtd(tmp_path / "dtd")
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    make_miniature_dtd(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == made
    (out / "images" / "bladed" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mine\.jpg is in the way and was not written here"):
        make_miniature_dtd(out, seed=1)
    assert len(files_below(out)) == len(files_below(mini)) + 1


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="per_class is 11: it must be at least 12, one image a tile"):
        make_miniature_dtd(tmp_path / "out", per_class=11)
    assert not (tmp_path / "out").exists()
