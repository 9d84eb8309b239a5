"""The layouts with folds: what they list, that their folds part the images, and what they refuse."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from layout_sets import NESTED, SETS, cub, write
from torchvision.datasets import DTD, Flowers102, ImageFolder

from loaders import InputError, open_store
from loaders.layouts import LAYOUTS, find_layout
from loaders.layouts.layout import Listing
from loaders.tree import TreeStore, open_tree

ROOT = Path(__file__).parent.parent
PARTS = ("train", "val", "test")
PLACES = [(name, nested) for name in SETS for nested in NESTED[name]]


def listed(root: Path) -> Listing:
    layout = find_layout(root)
    assert layout
    return layout.read(root)


def files_of(listing: Listing, split: str) -> list[str]:
    return [listing.files[place] for place in listing.splits[split]]


def samples(store: TreeStore) -> list[tuple[str, int]]:
    return [(store.key(place), int(store.labels[place])) for place in range(len(store))]


@pytest.mark.parametrize(("name", "nested"), PLACES)
def test_every_layout_is_recognised_alone_and_parts_its_images(tmp_path: Path, name: str, nested: str) -> None:
    write(tmp_path, name, nested)
    assert [other for other, layout in LAYOUTS.items() if layout.recognise(tmp_path)] == [name]
    layout = find_layout(tmp_path)
    assert layout is LAYOUTS[name]
    listing = layout.read(tmp_path)
    images = {file for file in SETS[name]() if file.lower().endswith((".jpg", ".png")) and not file.startswith("mask/")}
    assert set(listing.files) == images
    assert list(listing.splits) == [f"{part}{fold}" for fold in range(1, layout.folds + 1) for part in PARTS]
    for fold in range(1, layout.folds + 1):
        places = np.concatenate([listing.splits[f"{part}{fold}"] for part in PARTS])
        assert sorted(places) == list(range(len(images))), "every image in exactly one split"
    for split in listing.splits:
        store = open_tree(tmp_path, split)
        assert samples(store) == [
            (str(listing.root / listing.files[place]), int(listing.labels[place])) for place in listing.splits[split]
        ]
        assert store.classes == listing.classes
        assert store.read(0) == (listing.root / files_of(listing, split)[0]).read_bytes()


@pytest.mark.parametrize("name", SETS)
def test_images_are_sorted_by_class_and_name(tmp_path: Path, name: str) -> None:
    listing = listed(write(tmp_path, name))
    assert list(listing.classes) == sorted(set(listing.classes))
    assert sorted(zip(listing.labels.tolist(), listing.names, strict=True)) == list(
        zip(listing.labels.tolist(), listing.names, strict=True)
    )
    if name != "flowers":
        assert all(listing.classes[label] in file for label, file in zip(listing.labels, listing.files, strict=True))


@pytest.mark.parametrize("name", ["fmd", "folder", "kth"])
def test_folds_rotate(tmp_path: Path, name: str) -> None:
    """What fold k tests on is what the fold before validates on, and each image is tested on once."""
    listing, folds = listed(write(tmp_path, name)), LAYOUTS[name].folds
    for fold in range(1, folds + 1):
        before = (fold - 2) % folds + 1
        assert sorted(listing.splits[f"test{fold}"]) == sorted(listing.splits[f"val{before}"])
    tested = np.concatenate([listing.splits[f"test{fold}"] for fold in range(1, folds + 1)])
    assert sorted(tested) == list(range(len(listing.files)))


@pytest.mark.parametrize("name", ["fmd", "folder"])
def test_five_folds_are_stratified_within_one_image(tmp_path: Path, name: str) -> None:
    listing = listed(write(tmp_path, name))
    sizes = np.bincount(listing.labels)
    for fold, (part, share) in itertools.product(range(1, 6), {"train": 0.6, "val": 0.2, "test": 0.2}.items()):
        held = np.bincount(listing.labels[listing.splits[f"{part}{fold}"]], minlength=len(sizes))
        limit = 1 if part != "train" else 2  # three parts of which each may hold one more or less
        assert (np.abs(held - share * sizes) < limit).all(), (part, fold, held)
        assert (held > 0).all()


def test_dtd_is_torchvisions(tmp_path: Path) -> None:
    write(tmp_path, "dtd", "dtd/dtd")
    for fold, part in itertools.product(range(1, 11), PARTS):
        expected = DTD(tmp_path, split=part, partition=fold)
        store = open_tree(tmp_path, f"{part}{fold}")
        assert list(store.classes) == expected.classes
        pairs = zip(expected._image_files, expected._labels, strict=True)
        assert samples(store) == [(str(file), label) for file, label in pairs]


def test_flowers_are_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "flowers", "flowers-102")
    known = Flowers102._file_dict
    monkeypatch.setattr(Flowers102, "_file_dict", {key: (file, None) for key, (file, _) in known.items()})
    for part in PARTS:
        expected = Flowers102(tmp_path, split=part)
        pairs = zip(expected._image_files, expected._labels, strict=True)
        assert samples(open_tree(tmp_path, f"{part}1")) == [(str(file), label) for file, label in pairs]
    assert open_tree(tmp_path, "train1").classes == ("001", "002", "003")
    mats = scipy.io.loadmat(tmp_path / "flowers-102" / "imagelabels.mat")["labels"][0]
    listing = listed(tmp_path)
    assert {file: int(listing.classes[label]) for file, label in zip(listing.files, listing.labels, strict=True)} == {
        f"jpg/image_{number:05d}.jpg": label for number, label in enumerate(mats, 1)
    }


def test_class_folders_are_torchvisions(tmp_path: Path) -> None:
    listing, expected = listed(write(tmp_path, "folder")), ImageFolder(str(tmp_path))
    assert list(listing.classes) == expected.classes
    pairs = zip(listing.files, listing.labels.tolist(), strict=True)
    assert sorted((str(tmp_path / file), label) for file, label in pairs) == sorted(expected.samples)


def test_cub_follows_its_lists(tmp_path: Path) -> None:
    listing = listed(write(tmp_path, "cub"))
    rows = {
        name: dict(line.split(" ", 1) for line in cub()[name].decode().splitlines())
        for name in ("images.txt", "train_test_split.txt", "image_class_labels.txt", "classes.txt")
    }
    by_name = {f"images/{name}": number for number, name in rows["images.txt"].items()}
    for split, wanted in (("train1", "1"), ("val1", "1"), ("test1", "0")):
        assert {rows["train_test_split.txt"][by_name[file]] for file in files_of(listing, split)} == {wanted}
    for file, label in zip(listing.files, listing.labels, strict=True):
        assert rows["classes.txt"][rows["image_class_labels.txt"][by_name[file]]] == listing.classes[label]
    training = Counter(file.split("/")[1] for split in ("train1", "val1") for file in files_of(listing, split))
    held_out = Counter(file.split("/")[1] for file in files_of(listing, "val1"))
    assert held_out == {name: round(count / 10) for name, count in training.items()}, "a tenth of every class"


def test_cubs_validation_goes_by_names_and_not_by_numbers(tmp_path: Path) -> None:
    root = write(tmp_path, "cub")
    before = listed(root)
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt"):
        lines = [line.split(" ", 1) for line in (root / name).read_text().splitlines()]
        turned = [f"{len(lines) + 1 - int(number)} {value}" for number, value in reversed(lines)]
        (root / name).write_text("\n".join(turned) + "\n")
    after = listed(root)
    for split in ("train1", "val1", "test1"):
        assert sorted(files_of(after, split)) == sorted(files_of(before, split)), split
    training = sorted(file for split in ("train1", "val1") for file in files_of(before, split))
    places = [training.index(file) for file in files_of(before, "val1")]
    gaps = {second - first for first, second in itertools.pairwise(places)}
    assert len(gaps) > 1, "neither the first ones nor every tenth"


def test_physical_samples_are_never_shared(tmp_path: Path) -> None:
    listing = listed(write(tmp_path, "kth"))
    for fold, tested in enumerate("abcd", 1):
        held = {part: {file.rsplit("/", 1)[0] for file in files_of(listing, f"{part}{fold}")} for part in PARTS}
        assert held["test"] == {f"{name}/sample_{tested}" for name in ("cork", "wool")}
        assert held["val"] == {f"{name}/sample_{'abcd'[fold % 4]}" for name in ("cork", "wool")}
        assert len(held["train"]) == 4
        assert not held["train"] & (held["val"] | held["test"])


def test_every_split_of_fmd_has_close_ups_and_objects(tmp_path: Path) -> None:
    listing = listed(write(tmp_path, "fmd"))
    for split, places in listing.splits.items():
        kinds = Counter((listing.labels[place], listing.files[place].split("_")[1]) for place in places)
        assert set(kinds.values()) == {3 if split.startswith("train") else 1}, split


def test_folds_of_class_folders_are_the_same_everywhere(tmp_path: Path) -> None:
    """Wherever the folder lies, in another process, and but for the parts whatever else is in the class."""
    write(tmp_path / "one", "folder")
    first = listed(tmp_path / "one")
    expected = {split: files_of(first, split) for split in first.splits}
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    code = (
        "import sys; from pathlib import Path; from loaders.layouts import find_layout\n"
        "found = find_layout(Path(sys.argv[1])).read(Path(sys.argv[1]))\n"
        "print({split: [found.files[place] for place in places] for split, places in found.splits.items()})\n"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "two"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(expected)
    order = [file for file in expected["test1"] if file.startswith("wasps")]
    assert order != [f"wasps and others/{number:02d}.JPG" for number in range(len(order))], "shuffled"


@pytest.mark.parametrize("name", ["dtd", "kth"])
def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, NESTED[name][1])
    write(tmp_path, "cub", "CUB_200_2011")
    with pytest.raises(InputError, match=f"holds {LAYOUTS[name].title} and CUB-200-2011: name the folder of one"):
        open_store(tmp_path, "train1")
