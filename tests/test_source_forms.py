"""The forms with rules of their own: Tiny-ImageNet, WebDataset tars of others, and DTD with its folds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ilsvrc import BY_ID, content, make_ilsvrc, tar_of, write_files

from convert.sources import find_source, recognise, splits_of
from loaders.errors import InputError
from loaders.tree import open_tree

DATA = make_ilsvrc()
Files = dict[str, bytes]


def refused(root: Path, split: str, message: str, kind: str = "auto") -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_source(root, split, kind)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def tiny() -> Files:
    """Tiny-ImageNet as its archive holds it; its validation files are numbered from 0, without padding."""
    files = {"wnids.txt": "\n".join(BY_ID).encode(), "test/images/test_0.JPEG": b"no label"}
    for wnid, images in DATA.train.items():
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"a\t0\t0\t62\t62\n"
        files |= {f"train/{wnid}/images/{name}": image for name, image in images.items()}
    lines = []
    for number, (wnid, image) in enumerate(DATA.val.values()):
        files[f"val/images/val_{number}.JPEG"] = image
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    files["val/val_annotations.txt"] = "".join(lines).encode()
    return files


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = write_files(tmp_path, tiny())
    assert [kind for kind, _ in recognise(root)] == ["tiny"]
    assert splits_of(root) == ("train", "val")
    train, val = find_source(root, "train"), find_source(root, "val")
    assert train.classes == val.classes == tuple(sorted(BY_ID))
    assert content(train) == DATA.images("train")
    expected = {f"{wnid}/val_{number}": image for number, (wnid, image) in enumerate(DATA.val.values())}
    assert content(val) == expected
    assert [val.classes[label] for label in val.labels] == [key.partition("/")[0] for key in val.keys]
    assert list(val.labels) == sorted(val.labels)


def test_tiny_imagenet_without_its_list_has_the_classes_of_train(tmp_path: Path) -> None:
    root = write_files(tmp_path, tiny())
    listed = find_source(root, "val")
    (root / "wnids.txt").unlink()
    assert find_source(root, "val").fingerprint == listed.fingerprint


ANNOTATIONS = "val/val_annotations.txt"
TINY_FAULTS: dict[str, tuple[str, bytes | None, str, str]] = {
    "no annotations": (ANNOTATIONS, None, "val", r"val_annotations\.txt is missing"),
    "annotations cut": (ANNOTATIONS, b"val_0.JPEG\tn02100735\t0\n", "val", "and 10 others are only in"),
    "image missing": ("val/images/val_3.JPEG", None, "val", r"val_3\.JPEG and 0 others are only in"),
    "no tab": (ANNOTATIONS, b"val_0.JPEG n02100735\n", "val", "names no new image"),
    "no text": (ANNOTATIONS, b"\xff\xfe", "val", "no UTF-8 text"),
    "empty line": ("wnids.txt", b"n01440764\n\nn02119789\n", "train", "empty at line 2"),
    "unlisted class": ("wnids.txt", b"n01440764\n", "train", "not one of the 1 classes"),
}


@pytest.mark.parametrize("fault", TINY_FAULTS)
def test_a_faulty_tiny_imagenet_is_refused(tmp_path: Path, fault: str) -> None:
    name, data, split, message = TINY_FAULTS[fault]
    write_files(tmp_path, tiny())
    if data is None:
        (tmp_path / name).unlink()
    else:
        write_files(tmp_path, {name: data})
    refused(tmp_path, split, message)


def webdataset(prefix: str = "imagenet1k-", val: str = "validation") -> Files:
    """Two training shards and one for validation, as timm's are; the keys say nothing of the class."""
    classes, images = sorted(BY_ID), DATA.images("train")
    shards: list[Files] = [{}, {}]
    for number, (key, image) in enumerate(images.items()):
        extension = ("jpg", "jpeg", "PNG")[number % 3]
        shards[number % 2] |= {
            f"{number:08d}.cls": b"%d\n" % classes.index(key.partition("/")[0]),
            f"{number:08d}.seg.png": b"another part of the sample",
            f"{number:08d}.{extension}": image,
            f"{number:08d}.json": b"{}",
            f"{number:08d}.pyd": b"cbuiltins\nexec\n(S'raise SystemExit'\ntR.",
        }
    files = {f"{prefix}train-{number:04d}.tar": tar_of(shard) for number, shard in enumerate(shards)}
    files[f"{prefix}{val}-0000.tar"] = tar_of({"sub/v.jpg": b"image", "sub/v.cls": b"2"})
    return files


@pytest.mark.parametrize(("prefix", "val"), [("imagenet1k-", "validation"), ("", "val"), ("shards/", "valid")])
def test_webdataset_tars_of_others(tmp_path: Path, prefix: str, val: str) -> None:
    root = write_files(tmp_path, {**webdataset(prefix, val), "_info.json": b'{"splits": {}}'})
    assert [kind for kind, _ in recognise(root)] == ["webdataset"]
    assert splits_of(root) == ("train", "val")
    scan = find_source(root, "train")
    images = DATA.images("train")
    assert content(scan) == {f"{number:08d}": image for number, image in enumerate(images.values())}
    classes = {f"{number:08d}": sorted(BY_ID).index(key.partition("/")[0]) for number, key in enumerate(images)}
    assert dict(zip(scan.keys, scan.labels.tolist(), strict=True)) == classes
    assert list(scan.labels) == sorted(scan.labels)
    assert scan.classes == ("0", "1", "2", "3", "4")
    only = find_source(root, "val")
    assert (only.keys, only.labels.tolist(), content(only)) == (("sub/v",), [2], {"sub/v": b"image"})
    assert only.classes == scan.classes, "also where validation has fewer"


@pytest.mark.parametrize("name", ["_info.json", "classes.txt"])
def test_webdataset_class_names(tmp_path: Path, name: str) -> None:
    root = write_files(tmp_path, webdataset())
    names = ["tench", "setter", "husky", "terrier", "fox"]  # in the order of the labels, which is not theirs

    def write(names: list[str]) -> None:
        text = json.dumps({"classes": names}) if name == "_info.json" else "\n".join(names) + "\n"
        write_files(root, {name: text.encode()})

    write(names)
    assert find_source(root, "train").classes == tuple(names)
    write(names[:4])
    refused(root, "train", "label 4 in train where its class names end at 3")
    write([*names[:4], "tench"])
    refused(root, "train", "names the class 'tench' twice")


WEBDATASET_FAULTS: dict[str, tuple[Files, str]] = {
    "no label": ({"b.jpg": b""}, r"an image with the key 'b' but no label"),
    "no image": ({"b.cls": b"1"}, r"a label with the key 'b' but no image"),
    "two images": ({"a.png": b""}, "two images or labels with the key 'a'"),
    "letters": ({"b.jpg": b"", "b.cls": b"cat"}, r"'b\.cls' holds b'cat', which is no label"),
    "negative": ({"b.jpg": b"", "b.cls": b"-1"}, r"holds b'-1', which is no label"),
    "huge": ({"b.jpg": b"", "b.cls": b"9" * 20}, "which is no label from 0 to 1,000,000"),
    "long": ({"b.jpg": b"", "b.cls": b"1" + b" " * 50}, "which is no label"),
    "pickled": ({"b.jpg": b"", "b.cls": b"\x80\x04K\x01."}, "which is no label"),
}


@pytest.mark.parametrize("fault", WEBDATASET_FAULTS)
def test_a_faulty_webdataset_is_refused(tmp_path: Path, fault: str) -> None:
    members, message = WEBDATASET_FAULTS[fault]
    write_files(tmp_path, {"train-0.tar": tar_of({"a.jpg": b"", "a.cls": b"0", **members})})
    refused(tmp_path, "train", message)


def test_webdataset_keys_and_splits_are_certain(tmp_path: Path) -> None:
    sample = tar_of({"a.jpg": b"", "a.cls": b"0"})
    write_files(tmp_path, {"train-0.tar": sample, "train-1.tar": sample})
    refused(tmp_path, "train", "two images of train with the key 'a'")
    for name in ("part-2.tar", "trainval-2.tar", "train-of-val.tar"):
        path = write_files(tmp_path, {name: sample}) / name
        refused(tmp_path, "train", f"{name} names no split, or two")
        path.unlink()
    write_files(tmp_path, {"_info.json": b"{"})
    (tmp_path / "train-1.tar").unlink()
    refused(tmp_path, "train", r"_info\.json cannot be read as JSON")


def dtd() -> Files:
    """Two classes of six images in two folds, with the stray file that DTD has."""
    images = list(DATA.images("train").values())
    names = [f"{name}/{name}_{number:04d}.jpg" for name in ("banded", "waffled") for number in range(1, 7)]
    files = {f"images/{name}": image for name, image in zip(names, images, strict=False)}
    for fold in (1, 2):
        for place, split in enumerate(("train", "val", "test")):
            chosen = [name for number, name in enumerate(names) if (number + fold) % 3 == place]
            # The lists are not in the order of the names.
            files[f"labels/{split}{fold}.txt"] = "\n".join(reversed(chosen)).encode() + b"\n"
    return {**files, "images/waffled/.directory": b"stray", "labels/labels_joint_anno.txt": b"other"}


@pytest.mark.parametrize("nested", ["", "dtd"])
def test_dtd_with_its_folds(tmp_path: Path, nested: str) -> None:
    files = dtd()
    write_files(tmp_path / nested, files)
    assert [kind for kind, _ in recognise(tmp_path)] == ["dtd"]
    assert splits_of(tmp_path) == ("all",)
    scan = find_source(tmp_path, "all")
    expected = {name[7:-4]: data for name, data in files.items() if name.endswith(".jpg")}
    assert content(scan) == expected
    assert len(scan) == 12
    assert scan.classes == ("banded", "waffled")
    assert list(scan.subsets) == ["train1", "val1", "test1", "train2", "val2", "test2"]
    for fold, places in scan.subsets.items():
        store = open_tree(tmp_path, fold)
        keys = [f"{Path(store.key(i)).parent.name}/{Path(store.key(i)).stem}" for i in range(len(store))]
        assert [scan.keys[place] for place in places] == keys
        assert scan.labels[places].tolist() == store.labels.tolist()
    refused(tmp_path, "train1", "no split 'train1': choose all")


DTD_FAULTS: Mapping[str, tuple[Callable[[Files], Files], str]] = {
    "absent": (
        lambda _: {"labels/val2.txt": b"banded/banded_0099.jpg\n"},
        "val2 names images/banded/banded_0099.jpg, which is not in",
    ),
    "twice": (
        lambda files: {"labels/val2.txt": files["labels/val2.txt"] * 2},
        r"val2 of .* names images/waffled/waffled_\d+\.jpg twice",
    ),
    "outside": (lambda _: {"labels/val2.txt": b"../banded_0001.jpg\n"}, "which is no <class>/<file>"),
}


@pytest.mark.parametrize("fault", DTD_FAULTS)
def test_a_faulty_dtd_is_refused(tmp_path: Path, fault: str) -> None:
    change, message = DTD_FAULTS[fault]
    write_files(tmp_path, {**dtd(), **change(dtd())})
    refused(tmp_path, "all", message)


def test_dtd_is_no_tree(tmp_path: Path) -> None:
    refused(write_files(tmp_path, dtd()), "images", "take --source dtd", kind="tree")
