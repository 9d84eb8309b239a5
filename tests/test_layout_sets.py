"""Data sets with folds through conversion: the same samples in the same batches; numbers held to those published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ilsvrc import content, write_files
from layout_sets import NESTED, SETS, mat, write
from torchvision.datasets import DTD, Flowers102

from convert.sources import KINDS, find_source, recognise, splits_of
from loaders import open_loader, open_store
from loaders.layouts import LAYOUTS
from loaders.tree import open_tree
from twistnet.__main__ import main
from twistnet.arguments import parameters_of
from twistnet.commands import convert as command

Capture = pytest.CaptureFixture[str]
PLACES = [(name, nested) for name in SETS for nested in NESTED[name]]


def convert(source: Path, out: Path) -> Path:
    assert main(["convert", f"--data_dir={source}", f"--out={out}", "--workers=1", "--min_shards=3"]) == 0
    return out


@pytest.mark.parametrize(("name", "nested"), PLACES)
def test_a_scan_is_the_layout(tmp_path: Path, name: str, nested: str) -> None:
    write(tmp_path, name, nested)
    assert [kind for kind, _ in recognise(tmp_path)] == [name]
    assert splits_of(tmp_path) == splits_of(tmp_path, name) == ("all",)
    scan, listing = find_source(tmp_path, "all"), LAYOUTS[name].read(tmp_path)
    assert (scan.kind, scan.classes, scan.files) == (name, listing.classes, listing.files)
    assert content(scan) == {key: SETS[name]()[file] for key, file in zip(scan.keys, listing.files, strict=True)}
    assert list(scan.subsets) == list(listing.splits)
    for split, places in scan.subsets.items():
        store = open_tree(tmp_path, split)
        assert scan.labels[places].tolist() == store.labels.tolist()
        assert [str(scan.root / scan.files[place]) for place in places] == [store.key(i) for i in range(len(store))]


def test_every_kind_can_be_forced() -> None:
    assert set(command.Source.__args__) == {"auto", *KINDS}
    assert parameters_of(command.convert)["source"].default == "auto"


@pytest.mark.parametrize("name", SETS)
def test_a_converted_set_gives_the_batches_of_its_folder(tmp_path: Path, name: str) -> None:
    """A whole epoch of training: the same ids in the same order, labels, images and draws."""
    root = write(tmp_path / "set", name)
    out = convert(root, tmp_path / "converted")
    for split, train in (("train1", True), (f"test{LAYOUTS[name].folds}", False)):
        epochs = []
        for path in (root, out):
            store = open_store(path, split)
            with open_loader(
                path, split, 4, train=train, size=16, decoder="reference", num_threads=1, seed=3
            ) as loader:
                epochs.append((list(loader.epoch(1)), [bytes(store.read(place)) for place in range(len(store))]))
        (from_tree, tree_bytes), (from_shards, shard_bytes) = epochs
        assert len(from_tree) == len(from_shards)
        assert tree_bytes == shard_bytes or name in ("kth", "folder"), "PNGs become JPEGs"
        for one, other in zip(from_tree, from_shards, strict=True):
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.valid, other.valid)
            if name not in ("kth", "folder"):
                assert torch.equal(one.images, other.images)
        ids = torch.cat([batch.ids[batch.valid] for batch in from_tree])
        assert len(set(ids.tolist())) == len(ids)
        assert len(ids) == len(tree_bytes) or train, "training leaves out the last, which is no whole batch"


def test_keys_of_a_fold_are_the_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "set", "kth")
    out = convert(root, tmp_path / "converted")
    for split in ("train1", "val3", "test4"):
        one, other = open_store(root, split), open_store(out, split)
        keys = [Path(one.key(place)).relative_to(root).with_suffix("").as_posix() for place in range(len(one))]
        assert [other.key(place).rpartition(":")[2].rpartition(".")[0] for place in range(len(other))] == keys
        assert one.labels.tolist() == other.labels.tolist()
        assert list(one.classes) == list(other.classes)


def sizes(total: int, classes: int, fewest: int, most: int) -> list[int]:
    """Images of each class, at least one of them with the fewest and one with the most."""
    rest, others = total - fewest - most, classes - 2
    return [fewest, *(rest // others + (place < rest % others) for place in range(others)), most]


def whole(root: Path, name: str) -> Path:
    """Files as many as the real set has, by its own papers' numbers, and empty: they are counted, not opened."""
    files: dict[str, bytes] = {}
    if name == "dtd":
        images = [f"class{label:02d}/{number:04d}.jpg" for label in range(47) for number in range(120)]
        files = {f"images/{image}": b"" for image in images}
        for fold in range(1, 11):
            for place, part in enumerate(("train", "val", "test")):
                files[f"labels/{part}{fold}.txt"] = "\n".join(images[(place + fold) % 3 :: 3]).encode()
    elif name == "fmd":
        files = {f"image/class{label}/{number}.jpg": b"" for label in range(10) for number in range(100)}
        files["mask/class0/0.jpg"] = b""
    elif name == "kth":
        files = {
            f"class{label}/sample_{sample}/{number}.png": b""
            for label in range(11)
            for sample in "abcd"
            for number in range(108)
        }
    elif name == "cub":
        rows = []
        for label, size in enumerate(sizes(11_788, 200, 41, 60)):
            tested = 29 if label < 194 else 28
            rows += [(f"class{label:03d}/{number}.jpg", label + 1, number >= tested) for number in range(size)]
        files = {f"images/{image}": b"" for image, _, _ in rows}
        files["images.txt"] = "".join(f"{i} {image}\n" for i, (image, _, _) in enumerate(rows)).encode()
        files["image_class_labels.txt"] = "".join(f"{i} {label}\n" for i, (_, label, _) in enumerate(rows)).encode()
        files["train_test_split.txt"] = "".join(f"{i} {int(train)}\n" for i, (_, _, train) in enumerate(rows)).encode()
        files["classes.txt"] = "".join(f"{label + 1} class{label:03d}\n" for label in range(200)).encode()
    else:
        labels = np.repeat(np.arange(1, 103), sizes(8189, 102, 40, 258))
        number_of = [np.flatnonzero(labels == label) + 1 for label in range(1, 103)]
        files = {f"jpg/image_{number:05d}.jpg": b"" for number in range(1, 8190)}
        files["imagelabels.mat"] = mat(labels=labels)
        parts = {"trnid": slice(0, 10), "valid": slice(10, 20), "tstid": slice(20, None)}
        files["setid.mat"] = mat(
            **{key: np.concatenate([numbers[part] for numbers in number_of]) for key, part in parts.items()}
        )
    root.mkdir()
    for folder in {(root / name).parent for name in files}:
        folder.mkdir(parents=True, exist_ok=True)
    return write_files(root, files)


@pytest.mark.parametrize("name", ["dtd", "fmd", "kth", "cub", "flowers"])
def test_counts_are_held_to_those_published(tmp_path: Path, capsys: Capture, name: str) -> None:
    root, title = whole(tmp_path / "set", name), LAYOUTS[name].title
    assert main(["convert", "count", f"--data_dir={root}"]) == 0
    printed = capsys.readouterr().out
    total, classes, train = {
        "dtd": ("5,640", "47", "train1 to train10: 1,880"),
        "fmd": ("1,000", "10", "train1 to train5: 600"),
        "kth": ("4,752", "11", "train1 to train4: 2,376"),
        "cub": ("11,788", "200", "test1: 5,794"),
        "flowers": ("8,189", "102", "train1: 1,020"),
    }[name]
    assert f"all: {total} images of {classes} classes, " in printed
    assert f", {title}'s number" in printed
    assert f"  {train} images" in printed
    victim = next(path for path in sorted(root.rglob("*9.*")) if "mask" not in path.parts)
    victim.unlink()
    if name in ("fmd", "kth"):
        assert main(["convert", "count", f"--data_dir={root}"]) == 1
        printed = capsys.readouterr().out
        assert f", not {title}'s" in printed
        assert f"{int(total.replace(',', '')) - 1:,} images instead of {total}" in printed
    else:  # whose lists name it
        assert main(["convert", "count", f"--data_dir={root}"]) == 1
        assert victim.name in capsys.readouterr().err


def test_a_part_of_dtd_is_told_and_not_refused(tmp_path: Path, capsys: Capture) -> None:
    root = write(tmp_path / "set", "dtd")
    (root / "labels" / "test10.txt").unlink()
    assert main(["convert", "count", f"--data_dir={root}"]) == 1
    printed = capsys.readouterr().out
    assert "24 images of 2 classes, 12 to 12 a class, not DTD's" in printed
    assert "2 classes instead of 47; 24 images instead of 5,640" in printed
    assert len(open_store(root, "train10")) == len(open_store(convert(root, tmp_path / "out"), "train10"))


def test_ones_own_folder_is_held_to_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert main(["convert", "count", f"--data_dir={write(tmp_path, 'folder')}"]) == 0
    printed = capsys.readouterr().out
    assert "all: 23 images of 3 classes, 5 to 11 a class\n" in printed
    assert "number" not in printed


@pytest.mark.parametrize("place", ["", "dtd"])
def test_md5s_of_archives_beside(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The archive lies where torchvision's downloader leaves it, and either folder may be named."""
    write(tmp_path, "dtd", "dtd")
    flags = ["convert", "count", f"--data_dir={tmp_path / place}", "--md5"]
    assert main(flags) == 1
    assert "holds none of dtd-r1.0.1.tar.gz: name the folder of the archives." in capsys.readouterr().err
    (tmp_path / "dtd-r1.0.1.tar.gz").write_bytes(b"another")
    assert main(flags) == 1
    assert f"MD5 {hashlib.md5(b'another').hexdigest()}, where {DTD._MD5} is published" in capsys.readouterr().err
    facts = LAYOUTS["dtd"].facts
    assert facts
    monkeypatch.setitem(facts.md5, "dtd-r1.0.1.tar.gz", hashlib.md5(b"another").hexdigest())  # type: ignore[arg-type]
    assert main(flags) == 1, "the counts are still another set's"
    assert "dtd-r1.0.1.tar.gz: MD5 as published" in capsys.readouterr().out


def test_md5s_are_torchvisions() -> None:
    one, other = LAYOUTS["dtd"].facts, LAYOUTS["flowers"].facts
    assert one
    assert other
    assert one.md5 == {DTD._URL.rpartition("/")[2]: DTD._MD5}
    assert other.md5 == dict(Flowers102._file_dict.values())


@pytest.mark.parametrize("name", ["fmd", "kth", "cub", "folder"])
def test_archives_without_a_known_md5_are_said(tmp_path: Path, capsys: Capture, name: str) -> None:
    assert main(["convert", "count", f"--data_dir={write(tmp_path, name)}", "--md5"]) == 1
    assert f"no MD5 of the archives of {LAYOUTS[name].title} is known: leave out --md5." in capsys.readouterr().err
