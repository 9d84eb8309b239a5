"""DTD: `images/<class>/*.jpg`, and `labels/{train,val,test}{1..10}.txt`, ten ways to split the same images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from convert.scan import Ints, Scan
from convert.sources.listing import folders, has_image, images, scan_files
from loaders.errors import InputError
from loaders.tree import is_dtd, open_tree

_FOLD = re.compile(r"(train|val|test)([1-9]\d*)")


def recognise(path: Path) -> str | None:
    """Class folders in images/ and lists in labels/."""
    root = _root(path)
    folds = _folds(root)
    if not folds or not any(has_image(root / "images" / name) for name in folders(root / "images")):
        return None
    return f"images/ has {len(folders(root / 'images')):,} class folders and labels/ has {len(folds)} lists of them"


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """One, of all images: its subsets are the folds."""
    return ("all",) if _folds(_root(path)) else ()


def scan(path: Path, split: str, _devkit: Path | None, why: str) -> Scan:
    """All images, with a subset for every list: "train1" to "test10".

    Raises:
        InputError: where a list names an image that is not there, or one twice.
    """
    root = _root(path)
    classes = folders(root / "images")
    found = [(f"{name}/{file}", label) for label, name in enumerate(classes) for file in images(root / "images" / name)]
    places = {name: place for place, (name, _) in enumerate(found)}
    return scan_files(
        kind="dtd",
        why=why,
        root=root,
        split=split,
        classes=classes,
        files=[f"images/{name}" for name, _ in found],
        labels=[label for _, label in found],
        names=[name.partition("/")[2] for name, _ in found],
        subsets={fold: _subset(root, fold, places) for fold in _folds(root)},
    )


def _root(path: Path) -> Path:
    # As loaders.tree does: torchvision's downloader leaves dtd/dtd/images.
    nested = path / "dtd"
    return nested if is_dtd(nested) and not (path / "labels").is_dir() else path


def _folds(root: Path) -> list[str]:
    """Names of the lists, by fold and then in the order train, val, test."""
    found = [match for file in (root / "labels").glob("*.txt") if (match := _FOLD.fullmatch(file.stem))]
    order = ("train", "val", "test")
    return [match[0] for match in sorted(found, key=lambda match: (int(match[2]), order.index(match[1])))]


def _subset(root: Path, fold: str, places: dict[str, int]) -> Ints:
    store = open_tree(root, fold)
    names = [Path(store.key(place)).relative_to(root / "images").as_posix() for place in range(len(store))]
    listing = root / "labels" / f"{fold}.txt"
    if len(set(names)) != len(names):
        raise InputError(f"{listing} names an image twice: fetch DTD again.")
    try:
        return np.array([places[name] for name in names], dtype=np.int64)
    except KeyError as error:
        raise InputError(f"{listing} names {error.args[0]}, which is not in {root / 'images'}: fetch it.") from error
