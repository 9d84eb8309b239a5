"""Every form of a data set: the same images give the same scan, and what is not whole or not certain is refused."""

from __future__ import annotations

import csv
import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ilsvrc import (
    BY_ID,
    DEVKIT,
    INNER,
    LAYOUTS,
    Ilsvrc,
    content,
    make_ilsvrc,
    meta_mat,
    tar_of,
    truth_of,
    write_archives,
    write_devkit,
    write_files,
    write_flat,
    write_kaggle,
    write_tree,
)

from convert.sources import find_source, recognise, splits_of
from convert.sources.devkit import read_devkit
from loaders.errors import InputError
from loaders.tree import open_tree

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def data() -> Ilsvrc:
    return make_ilsvrc()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory, data: Ilsvrc) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ilsvrc")
    return {name: write(root / name, data) for name, write in LAYOUTS.items()}


@pytest.mark.parametrize("split", SPLITS)
def test_every_layout_gives_the_same_scan(layouts: dict[str, Path], data: Ilsvrc, split: str) -> None:
    scans = {name: find_source(path, split) for name, path in layouts.items()}
    assert {name: scan.kind for name, scan in scans.items()} == {name: name for name in LAYOUTS}
    assert len({scan.fingerprint for scan in scans.values()}) == 1
    for scan in scans.values():
        assert content(scan) == data.images(split)
        assert scan.classes == tuple(sorted(BY_ID))
        assert scan.keys == scans["tree"].keys
        # A key begins with its WordNet id, so this holds the labels to the sorted ids.
        assert [scan.classes[label] for label in scan.labels] == [key.partition("/")[0] for key in scan.keys]
        assert len(scan) == len(data.images(split))


@pytest.mark.parametrize("split", SPLITS)
def test_the_order_is_that_of_the_tree_store(layouts: dict[str, Path], split: str) -> None:
    scan, store = find_source(layouts["archives"], split), open_tree(layouts["tree"], split)
    assert [Path(store.key(place)).stem for place in range(len(store))] == [key.split("/")[1] for key in scan.keys]
    assert scan.labels.tolist() == store.labels.tolist()


def test_the_fingerprint_is_of_the_images(layouts: dict[str, Path], tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", make_ilsvrc(seed=1))
    assert find_source(other, "train").keys == find_source(layouts["tree"], "train").keys
    assert find_source(other, "train").fingerprint != find_source(layouts["tree"], "train").fingerprint


def test_the_devkit_maps_ids_by_way_of_meta_mat(layouts: dict[str, Path], data: Ilsvrc) -> None:
    kit = read_devkit(layouts["flat"] / DEVKIT)
    assert kit == read_devkit(layouts["flat"] / DEVKIT), "read twice"
    assert kit.by_id[1] == "n02119789"
    assert kit.classes[0] == "n01440764"
    assert kit.truth == tuple(wnid for wnid, _ in data.val.values())
    # The guide's own "id - 1" gives other labels.
    right = [kit.classes.index(wnid) for wnid in kit.truth]
    assert right != [int(line) - 1 for line in truth_of(data).split()]
    packed = read_devkit(layouts["archives"] / f"{DEVKIT}.tar.gz")
    assert (packed.classes, packed.by_id, packed.truth) == (kit.classes, kit.by_id, kit.truth)


def thousand(first: str = "n02119789") -> list[str]:
    """A thousand ids with the two that are known, in no order."""
    others = [f"n{number:08d}" for number in np.random.default_rng(0).permutation(np.arange(3_000_000, 3_000_998))]
    return [first, *others, "n01440764" if first != "n01440764" else "n02119789"]


def test_the_canary_of_the_complete_kit(tmp_path: Path) -> None:
    kit = read_devkit(write_devkit(tmp_path / "right", meta_mat(thousand()), "1\n1000\n"))
    assert kit.truth == ("n02119789", "n01440764")
    assert len(kit.classes) == 1000
    for number, wrong in enumerate((sorted(thousand()), [w.replace("n01440764", "n09") for w in thousand()])):
        with pytest.raises(InputError, match="where ILSVRC2012 has n02119789 and n01440764"):
            read_devkit(write_devkit(tmp_path / f"wrong{number}", meta_mat(wrong), "1\n"))


def test_a_devkit_may_lie_elsewhere(data: Ilsvrc, tmp_path: Path) -> None:
    root = write_flat(tmp_path / "flat", data)
    (tmp_path / "elsewhere").mkdir()
    kit = (root / DEVKIT).rename(tmp_path / "elsewhere" / "kit")
    with pytest.raises(InputError, match=r"no ILSVRC2012_devkit_t12\.tar\.gz.*--devkit"):
        find_source(root, "val")
    for named in (kit, kit.parent, write_devkit(tmp_path, meta_mat(), truth_of(data))):
        assert content(find_source(root, "val", devkit=named)) == data.images("val")


def test_validation_alone_has_the_devkits_classes(data: Ilsvrc, tmp_path: Path) -> None:
    root = write_archives(tmp_path, data)
    (root / "ILSVRC2012_img_train.tar").unlink()
    assert splits_of(root) == ("val",)
    assert find_source(root, "val").classes == tuple(sorted(BY_ID))


def bad_kit(meta: bytes | None = None, truth: str = "1\n") -> Callable[[Path], Path]:
    return lambda root: write_devkit(root, meta_mat() if meta is None else meta, truth)


def raw_kit(data: bytes) -> Callable[[Path], Path]:
    return lambda root: write_files(root, {"kit.tar.gz": data}) / "kit.tar.gz"


KITS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "id zero": (bad_kit(truth="1\n0\n"), "more than ids from 1 to 5"),
    "id of an inner synset": (bad_kit(truth="6\n"), "more than ids from 1 to 5"),
    "letters": (bad_kit(truth="one\n"), "more than ids"),
    "torn mat": (bad_kit(meta=meta_mat()[:300]), "cannot be read"),
    "no mat": (bad_kit(meta=b"hello" * 100), "cannot be read"),
    "two alike": (bad_kit(meta=meta_mat((*BY_ID, BY_ID[0]))), "does not number 6 different classes"),
    "no classes": (bad_kit(meta=meta_mat((), INNER)), "gives 0 classes"),
    "torn gzip": (raw_kit(gzip.compress(tar_of({"x": b"x" * 9000}))[:-20]), r"kit\.tar\.gz is no whole"),
    "no gzip": (raw_kit(b"hello"), r"kit\.tar\.gz cannot be read"),
    "no tar": (raw_kit(gzip.compress(b"hello")), r"kit\.tar\.gz is no whole"),
    "no meta": (raw_kit(gzip.compress(tar_of({"x": b"x"}))), r"holds no data/meta\.mat"),
    "missing": (lambda root: root / "nowhere.tar.gz", "cannot be read"),
    "empty folder": (lambda root: root, r"holds neither data/meta\.mat"),
}


@pytest.mark.parametrize("fault", KITS)
def test_a_faulty_devkit_is_refused(tmp_path: Path, fault: str) -> None:
    make, message = KITS[fault]
    with pytest.raises(InputError, match=message) as caught:
        read_devkit(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_only_the_devkit_needs_scipy(layouts: dict[str, Path], data: Ilsvrc) -> None:
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from pathlib import Path; from convert.sources import find_source\n"
        "print(len(find_source(Path(sys.argv[1]), 'train')))\n"
        "try: find_source(Path(sys.argv[1]), 'val')\n"
        "except ValueError as error: print(error)\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, layouts["flat"]], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    count, message = done.stdout.splitlines()
    assert int(count) == len(data.images("train"))
    assert message == "reading the devkit needs scipy: pip install 'twistnet[convert]'"


Write = Callable[[Path, Ilsvrc], Path]


def csv_without(column: str) -> Write:
    def write(root: Path, data: Ilsvrc) -> Path:
        write_kaggle(root, data)
        file = root / "LOC_val_solution.csv"
        rows = list(csv.DictReader(file.open()))
        with file.open("w", newline="") as text:
            writer = csv.DictWriter(text, [name for name in rows[0] if name != column], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        return root

    return write


def edited(write: Write, *edits: Callable[[Path], object]) -> Write:
    def both(root: Path, data: Ilsvrc) -> Path:
        write(root, data)
        for edit in edits:
            edit(root)
        return root

    return both


def drop(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda root: write_files(root, {name: (root / name).read_bytes()[:size]})


def put(name: str, data: bytes = b"jpeg") -> Callable[[Path], object]:
    return lambda root: write_files(root, {name: data})


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


TRAIN_TAR, VAL_TAR, SOLUTION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "LOC_val_solution.csv"
FIRST, LAST = "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000099.JPEG"
FOX, KAGGLE_VAL = f"train/{BY_ID[0]}", "ILSVRC/Data/CLS-LOC/val"


def no_images(name: str) -> Callable[[Path], object]:
    """A training archive with one class."""
    return put(TRAIN_TAR, tar_of({"n01.tar": tar_of({name: b""})}))


FAULTS: dict[str, tuple[Write, str, str]] = {
    "train cut": (edited(write_archives, cut(TRAIN_TAR, 9000)), "train", r"train\.tar: member 'n\d+\.tar' needs"),
    "val cut": (edited(write_archives, cut(VAL_TAR, 9000)), "val", r"img_val\.tar: member"),
    "no class tars": (edited(write_archives, put(TRAIN_TAR, tar_of({"a.jpg": b""}))), "train", "no <wnid>.tar"),
    "empty class tar": (edited(write_archives, no_images("a.txt")), "train", r"n01\.tar holds no images"),
    "class of val only": (edited(write_archives, no_images("a.jpg")), "val", r"not one of the 1 classes"),
    "no devkit": (edited(write_archives, drop(f"{DEVKIT}.tar.gz")), "val", "have no labels"),
    "val image missing": (edited(write_flat, drop(f"val/{FIRST}")), "val", "holds 11 validation images where"),
    "val image strange": (edited(write_flat, rename(f"val/{FIRST}", f"val/{LAST}")), "val", "number contradicts"),
    "no ImageId": (csv_without("ImageId"), "val", "has no column ImageId"),
    "no PredictionString": (csv_without("PredictionString"), "val", "has no column PredictionString"),
    "no solution": (edited(write_kaggle, drop(SOLUTION)), "val", r"no LOC_val_solution\.csv"),
    "solution cut": (
        edited(write_kaggle, cut(SOLUTION, 300)),
        "val",
        "no class for 'ILSVRC2012_val_', or two, at line 6",
    ),
    "solution is no text": (edited(write_kaggle, put(SOLUTION, b"ImageId\xff")), "val", "cannot be read"),
    "kaggle image missing": (edited(write_kaggle, drop(f"{KAGGLE_VAL}/{FIRST}")), "val", "0 others are only in"),
    "kaggle image strange": (edited(write_kaggle, put(f"{KAGGLE_VAL}/{LAST}")), "val", "0 others are only in"),
    "loose images": (edited(write_tree, put("train/loose.JPEG")), "train", "beside its class folders"),
    "one key twice": (edited(write_tree, put(f"{FOX}/a.png"), put(f"{FOX}/a.jpg")), "train", "key 'n02119789/a'"),
    "one key by dots": (edited(write_tree, put(f"{FOX}/a.b.jpg"), put(f"{FOX}/a_b.jpg")), "train", "n02119789/a_b"),
    "control character": (edited(write_tree, put(f"{FOX}/a\nb.jpg")), "train", "control character"),
    "dangling link": (edited(write_tree, lambda root: (root / FOX / "a.jpg").symlink_to("b")), "train", "No such file"),
    "no such split": (write_tree, "test", "no split 'test': choose train or val"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_source_is_refused(tmp_path: Path, data: Ilsvrc, fault: str) -> None:
    write, split, message = FAULTS[fault]
    root = write(tmp_path / "set", data)
    with pytest.raises(InputError, match=message) as caught:
        find_source(root, split)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_dot_in_a_stem_becomes_an_underscore(data: Ilsvrc, tmp_path: Path) -> None:
    root = edited(write_tree, put(f"{FOX}/a.b.c.jpg"), put(f"{FOX}/.hidden.jpg"), put(f"{FOX}/deep/d.jpg"))
    keys = set(find_source(root(tmp_path, data), "train").keys) - data.images("train").keys()
    assert keys == {"n02119789/a_b_c", "n02119789/deep/d"}


@pytest.mark.parametrize(
    ("write", "also", "kinds"),
    [
        (write_archives, write_tree, ["tree", "archives"]),
        (write_flat, write_archives, ["archives", "flat"]),
        (write_tree, write_kaggle, ["tree", "kaggle"]),
    ],
)
def test_two_forms_in_one_folder_are_refused_unless_forced(
    data: Ilsvrc, tmp_path: Path, write: Write, also: Write, kinds: list[str]
) -> None:
    root = also(write(tmp_path, data), data)
    assert [kind for kind, _ in recognise(root)] == kinds
    with pytest.raises(InputError, match=f"--source {' or '.join(kinds)}"):
        find_source(root, "train")
    for kind in kinds:
        assert content(find_source(root, "val", kind)) == data.images("val")


def test_no_form_or_the_wrong_one_is_refused(layouts: dict[str, Path], tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": b"", "broken.tar": b"x", "train/n01.tar": b""})
    for kind, message in [
        ("auto", r"holds broken\.tar, notes\.txt, train, which is no data set in a known form"),
        ("lmdb", "source 'lmdb' is unknown: choose auto, tree, archives, kaggle, flat, tiny, webdataset, dtd"),
        ("tree", "has no split that can be read as tree"),
        ("dtd", "has no split that can be read as dtd"),
    ]:
        with pytest.raises(InputError, match=message):
            find_source(tmp_path, "train", kind)
    for path in (tmp_path / "nowhere", layouts["archives"] / TRAIN_TAR):
        with pytest.raises(InputError, match="is no folder"):
            find_source(path, "train")


def test_archives_in_the_place_of_their_images(layouts: dict[str, Path], tmp_path: Path) -> None:
    """The training archive was extracted, and the archives in it were not."""
    root = Path(shutil.copytree(layouts["flat"], tmp_path / "imagenet"))
    for folder in sorted((root / "train").iterdir()):
        shutil.rmtree(folder)
        (root / "train" / f"{folder.name}.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"train holds 5 archives as n\d{8}\.tar, whose images are not extracted"):
        splits_of(root)


def test_what_was_found_is_told(layouts: dict[str, Path]) -> None:
    told: list[str] = []
    for name, path in layouts.items():
        assert splits_of(path) == splits_of(path, name) == SPLITS
        find_source(path, "train", report=told.append)
    assert [sentence.partition(" is read as ")[2] for sentence in told] == [
        "archives: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar are there.",
        "tree: train/ has 5 class folders and val/ has 5 class folders.",
        "kaggle: ILSVRC/Data/CLS-LOC holds train and val.",
        f"flat: val/ holds images without class folders, train/ has class folders and {DEVKIT} is there.",
    ]


def test_kaggles_own_folder_may_be_named(layouts: dict[str, Path], data: Ilsvrc) -> None:
    scan = find_source(layouts["kaggle"] / "ILSVRC", "val")
    assert (scan.kind, content(scan)) == ("kaggle", data.images("val"))
