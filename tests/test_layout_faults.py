"""What is wrong with a data set with folds is said in a sentence, and what may be another data set is not guessed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from ilsvrc import LAYOUTS as FORMS
from ilsvrc import make_ilsvrc, tar_of, write_files
from layout_sets import NESTED, SETS, Files, crop, filled, mat, write

from convert.sources import find_source, recognise, splits_of
from loaders import InputError, open_store
from loaders.layouts import find_layout

Change = Callable[[Files], Mapping[str, bytes | None]]  # None: the file is not there


def without(beginning: str) -> Change:
    return lambda files: {name: None for name in files if name.startswith(beginning)}


def with_(name: str, data: bytes) -> Change:
    return lambda _: {name: data}


def line(name: str, before: str, after: str) -> Change:
    """A list in which one text is another, once."""
    return lambda files: {name: files[name].decode().replace(before, after, 1).encode()}


WAFFLE = "waffled/waffled_0001.jpg"
BIRD = "001.Black_footed_Albatross/Black_footed_Albatross_0000_0.jpg"
SET_ID = {"trnid": [1, 2], "valid": [3], "tstid": [4]}
FAULTS: dict[str, tuple[str, Change, str]] = {
    "dtd: an image is gone": ("dtd", without(f"images/{WAFFLE}"), rf"names images/{WAFFLE}, which is not in"),
    "dtd: twice": (
        "dtd",
        lambda files: {"labels/test3.txt": files["labels/test3.txt"] * 2},
        r"test3 of .* names images/.* twice: fetch DTD again",
    ),
    "dtd: in two splits": (
        "dtd",
        lambda files: {"labels/test1.txt": files["labels/train1.txt"]},
        r"test1 of .* and train1 both name images/",
    ),
    "dtd: empty list": ("dtd", with_("labels/val4.txt", b"\n"), r"val4 of .* names no image"),
    "dtd: no text": ("dtd", with_("labels/val4.txt", b"banded/caf\xe9.jpg\n"), r"val4\.txt is no UTF-8 text"),
    "dtd: outside": ("dtd", with_("labels/val4.txt", b"../x.jpg\n"), r"names '\.\./x\.jpg', which is no <class>"),
    "dtd: absolute": ("dtd", with_("labels/val4.txt", b"/etc/passwd\n"), r"names '/etc/passwd', which is no <class>"),
    "dtd: missing list": ("dtd", without("labels/train1.txt"), "has no split 'train1': it has val1, test1, train2"),
    "fmd: few images": (
        "fmd",
        lambda files: dict.fromkeys([name for name in files if name.startswith("image/wood/")][4:]),
        r"image/wood holds 4 images, too few for 5 folds: extract FMD\.zip again",
    ),
    "kth: a sample is gone": (
        "kth",
        without("wool/sample_d"),
        r"wool/sample_d holds no images, so a fold would lack its class: extract KTH-TIPS2-b again",
    ),
    "kth: another sample": (
        "kth",
        with_("wool/sample_e/1.png", crop(1)),
        r"wool holds folder sample_e, where sample_a",
    ),
    "kth: loose": ("kth", with_("wool/1.png", crop(1)), r"wool holds images of no sample"),
    "cub: missing list": ("cub", without("train_test_split.txt"), r"train_test_split\.txt cannot be read"),
    "cub: a list is cut": ("cub", with_("image_class_labels.txt", b"1 1\n"), r"image \d+ is only in .*images\.txt or"),
    "cub: twice": ("cub", line("images.txt", "2 001", "1 001"), "which is no new number and its value"),
    "cub: one image twice": (
        "cub",
        lambda files: {
            "images.txt": files["images.txt"] + b"99 " + BIRD.encode() + b"\n",
            "image_class_labels.txt": files["image_class_labels.txt"] + b"99 1\n",
            "train_test_split.txt": files["train_test_split.txt"] + b"99 0\n",
        },
        rf"test1 of .* and train1 both name images/{BIRD}",
    ),
    "cub: wrong class": (
        "cub",
        line("image_class_labels.txt", "1 1", "1 2"),
        r"gives image 1, .*, class '2', which in",
    ),
    "cub: no class": ("cub", line("image_class_labels.txt", "1 1", "1 77"), r"gives image 1, .*, class '77', which in"),
    "cub: no split": ("cub", line("train_test_split.txt", "1 1", "1 2"), r"has '2' for image 1, no 0 or 1"),
    "cub: an image is gone": ("cub", without(f"images/{BIRD}"), rf"names {BIRD}, which is not in"),
    "cub: outside": (
        "cub",
        line("images.txt", BIRD, f"../{BIRD}"),
        r"names '\.\./.*', which is no file below its folder",
    ),
    "cub: absolute": ("cub", line("images.txt", BIRD, f"/{BIRD}"), r"names '/.*', which is no file below its folder"),
    "cub: no text": ("cub", with_("classes.txt", b"1 caf\xe9\n"), r"classes\.txt is no UTF-8 text"),
    "cub: one class twice": (
        "cub",
        line("classes.txt", "002.Laysan_Albatross", "001.Black_footed_Albatross"),
        r"classes\.txt names a class twice",
    ),
    "flowers: no labels": ("flowers", without("imagelabels.mat"), r"imagelabels\.mat cannot be read \(No such file"),
    "flowers: no splits": ("flowers", without("setid.mat"), r"setid\.mat cannot be read \(No such file"),
    "flowers: no mat": ("flowers", with_("setid.mat", b"hello" * 99), r"setid\.mat cannot be read \("),
    "flowers: torn": (
        "flowers",
        lambda files: {"setid.mat": files["setid.mat"][:150]},
        r"setid\.mat cannot be read \(",
    ),
    "flowers: large": ("flowers", with_("setid.mat", b"\0" * 300_000), r"has 300,000 bytes, more than the 262,144"),
    "flowers: other names": ("flowers", with_("setid.mat", mat(a=[1])), r"holds no row of numbers named trnid"),
    "flowers: text": ("flowers", with_("imagelabels.mat", mat(labels="abc")), "holds no row of numbers named labels"),
    "flowers: cells": (
        "flowers",
        with_("imagelabels.mat", mat(labels=np.array([[1, "a"]], dtype=object))),
        "holds no row of numbers named labels",
    ),
    "flowers: a table": (
        "flowers",
        with_("imagelabels.mat", mat(labels=np.ones((3, 4)))),
        "holds no row of numbers named labels",
    ),
    "flowers: halves": (
        "flowers",
        with_("imagelabels.mat", mat(labels=[0.5, 1])),
        "labels of .* holds what is no whole",
    ),
    "flowers: not a number": (
        "flowers",
        with_("imagelabels.mat", mat(labels=[np.nan, 1])),
        "labels of .* holds what is no whole number",
    ),
    "flowers: from 0": ("flowers", with_("imagelabels.mat", mat(labels=[0] * 12)), "holds labels outside 1 to 999"),
    "flowers: huge": ("flowers", with_("imagelabels.mat", mat(labels=[10**8] * 12)), "holds labels outside 1 to 999"),
    "flowers: an image is gone": (
        "flowers",
        without("jpg/image_00005.jpg"),
        r"holds 11 images where imagelabels\.mat has 12 labels, and image_00005\.jpg is only in one of them",
    ),
    "flowers: outside": (
        "flowers",
        with_("setid.mat", mat(**{**SET_ID, "tstid": [99]})),
        r"test1 names jpg/image_00099\.jpg, which is not in",
    ),
    "flowers: negative": (
        "flowers",
        with_("setid.mat", mat(**{**SET_ID, "tstid": [-1]})),
        r"test1 names jpg/image_-0001\.jpg, which is not in",
    ),
    "flowers: in two splits": (
        "flowers",
        with_("setid.mat", mat(**{**SET_ID, "tstid": [2]})),
        r"test1 of .* and train1 both name jpg/image_00002\.jpg",
    ),
    "folder: few": ("folder", without("ants/3.jpg"), "ants holds 4 images, fewer than the 5 that 5 folds need"),
    "folder: none": ("folder", with_("empty/notes.txt", b""), "empty holds 0 images, fewer than the 5"),
    "folder: not whole": ("folder", with_(".preparing", b""), "is not whole: start twistnet convert prepare again"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_set_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    name, change, message = FAULTS[fault]
    files = SETS[name]()
    spoiled = {**files, **change(files)}
    assert spoiled != files
    write_files(tmp_path, {name: data for name, data in spoiled.items() if data is not None})
    with pytest.raises(InputError, match=message) as caught:
        open_store(tmp_path, "train1")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def numbered(*folders: str, count: int = 6) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


# What somebody's folder may be: class folders, or something else that must not be taken for them.
OWN: dict[str, list[str]] = {
    "two classes": numbered("ants", "bees"),
    "folders below": numbered("ants/red", "ants/black", "bees"),
    "only folders below": numbered("ants/red", "ants/black", "bees/honey"),
    "a class of trains": numbered("cars", "planes", "train"),
    "names that begin alike": numbered("trainers", "valves", "imagery", "testament"),
    "its own archive beside": [*numbered("ants", "bees"), "ants_and_bees.zip"],
}
OTHER: dict[str, list[str]] = {
    "one folder": numbered("ants"),
    "a tree": numbered("train/ants", "train/bees", "val/ants", "val/bees"),
    "training images alone": numbered("train/ants", "train/bees"),
    "a tree of other names": numbered("training/ants", "training/bees", "testing/ants", "testing/bees"),
    "loose splits": numbered("train", "test"),
    "COCO": [*numbered("train2017", "val2017"), "annotations/instances.json"],
    "validation beside classes": numbered("ants", "bees", "val"),
    "a train and a test": numbered("ants", "bees", "train", "test"),
    "two domains": numbered("trainA", "trainB", "testA", "testB"),
    "masks": numbered("images", "masks"),
    "VOC": numbered("JPEGImages", "SegmentationClass"),
    "DTD without lists": numbered("images/banded", "images/waffled"),
    "FMD without masks": numbered("image/silk", "image/wood"),
    "several sets": numbered("one/train/ants", "one/train/bees", "two/train/cars", "two/train/planes"),
    "defects": numbered("bottle/train/good", "bottle/test/bad", "cable/train/good", "cable/test/bad"),
    "domains": numbered("amazon/bike", "amazon/mug", "dslr/bike", "dslr/mug"),
    "loose images beside": [*numbered("ants", "bees"), "1.jpg"],
    "no images": ["ants/1.txt", "bees/1.txt"],
    "hidden": numbered(".cache/ants", ".cache/bees"),
}


@pytest.mark.parametrize("case", OWN)
def test_class_folders_are_recognised(tmp_path: Path, case: str) -> None:
    write_files(tmp_path, filled(OWN[case]))
    layout = find_layout(tmp_path)
    assert layout
    assert layout.name == "folder"
    assert [kind for kind, _ in recognise(tmp_path)] == ["folder"]
    classes = sorted({name.partition("/")[0] for name in OWN[case] if "/" in name})
    assert list(find_source(tmp_path, "all").classes) == list(open_store(tmp_path, "val5").classes) == classes


@pytest.mark.parametrize("case", OTHER)
def test_what_may_be_something_else_is_not_guessed(tmp_path: Path, case: str) -> None:
    write_files(tmp_path, filled(OTHER[case]))
    assert find_layout(tmp_path) is None
    assert "folder" not in [kind for kind, _ in recognise(tmp_path)]
    with pytest.raises(InputError, match=r"has no split 'train1', as it has none of the layouts with folds .DTD, FMD"):
        open_store(tmp_path, "train1")


def test_sets_in_one_folder_are_not_classes(tmp_path: Path) -> None:
    write(tmp_path / "textures", "dtd")
    write(tmp_path / "birds", "cub")
    assert find_layout(tmp_path) is None
    assert recognise(tmp_path) == []


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_imagenet_is_class_folders(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path, make_ilsvrc())
    assert find_layout(tmp_path) is None
    assert [kind for kind, _ in recognise(tmp_path)] == [form]


@pytest.mark.parametrize("name", ["dtd", "fmd", "kth", "cub", "flowers"])
def test_a_tree_with_another_set_beside_its_splits_is_a_tree(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, NESTED[name][1])
    write_files(tmp_path, filled(numbered("train/ants", "train/bees", "val/ants")))
    assert find_layout(tmp_path) is None
    assert [kind for kind, _ in recognise(tmp_path)] == ["tree"]
    assert len(open_store(tmp_path, "train")) == 12


def test_class_folders_beside_tars_are_the_tars_when_converting(tmp_path: Path) -> None:
    write_files(
        tmp_path, {**filled(numbered("ants", "bees")), "train-0.tar": tar_of({"a.jpg": crop(0), "a.cls": b"0"})}
    )
    assert [kind for kind, _ in recognise(tmp_path)] == ["webdataset"]


def test_a_physical_sample_that_is_missing_everywhere_is_no_class_folder(tmp_path: Path) -> None:
    """Which would mix the samples that are there over the splits."""
    files = SETS["kth"]()
    write_files(tmp_path, {name: data for name, data in files.items() if "sample_d" not in name})
    with pytest.raises(InputError, match=r"cork/sample_d holds no images, so a fold would lack its class"):
        open_store(tmp_path, "train1")


def test_what_is_not_guessed_may_be_forced(tmp_path: Path) -> None:
    write_files(tmp_path, filled(OTHER["domains"]))
    with pytest.raises(InputError, match="force a form with --source"):
        splits_of(tmp_path)
    assert splits_of(tmp_path, "folder") == ("all",)
    assert find_source(tmp_path, "all", "folder").classes == ("amazon", "dslr")
    assert find_source(tmp_path, "amazon", "tree").classes == ("bike", "mug")
    write_files(tmp_path, {"1.jpg": crop(0)})
    with pytest.raises(InputError, match="holds images beside its class folders: sort them into those"):
        find_source(tmp_path, "all", "folder")


def test_trees_of_any_names_are_opened_as_before(tmp_path: Path) -> None:
    write_files(tmp_path, filled(OTHER["domains"]))
    assert open_store(tmp_path, "dslr").classes == ["bike", "mug"]
    write_files(tmp_path / "own", filled(OWN["folders below"]))
    assert open_store(tmp_path / "own", "ants").classes == ["black", "red"]
    with pytest.raises(InputError, match="has no folder train/: it must hold train/<class>/<image>"):
        open_store(tmp_path / "own", "train")


@pytest.mark.parametrize(("name", "split"), [("fmd", "test6"), ("kth", "train5"), ("cub", "val2"), ("flowers", "all")])
def test_a_split_that_a_set_does_not_have_is_named(tmp_path: Path, name: str, split: str) -> None:
    with pytest.raises(InputError, match=f"has no split '{split}': it has train1, val1, test1 to test"):
        open_store(write(tmp_path, name), split)


def test_a_missing_scipy_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"reading Flowers-102 needs scipy: pip install 'twistnet\[convert\]'\."):
        open_store(write(tmp_path, "flowers"), "train1")


@pytest.mark.parametrize("name", ["dtd", "fmd", "cub", "kth"])
def test_a_set_forced_to_be_a_tree_says_what_it_is(tmp_path: Path, name: str) -> None:
    split = {"fmd": "image", "kth": "cork"}.get(name, "images")
    write(tmp_path, name)
    with pytest.raises(InputError, match=f"take --source {name}"):
        find_source(tmp_path, split, "tree")
