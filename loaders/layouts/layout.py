"""What a layout of a data set with folds is, and what the layouts share."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError
from loaders.folders import EXTENSIONS

Ints = npt.NDArray[np.int64]

SPLITS = ("train", "val", "test")
SEED = 0  # of every split that a data set does not give itself: one fold is one fold, everywhere
_FOLD = re.compile(r"(train|val|test)([1-9][0-9]*)")
_PARTS = 5


class Image(NamedTuple):
    """One image of a data set: images sort by class, then by name."""

    label: int
    name: str  # of its file, below the folder of its class
    file: str  # relative to the data set's root


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a data set as it was published.

    Attributes:
        classes: how many.
        images: how many.
        per_class: fewest and most images of a class.
        splits: "train", "val" or "test" -> images in it, the same in every fold; those that are known.
        md5: file name of an archive -> its MD5; {} where none is known.
        home: where it is to be had.
    """

    classes: int
    images: int
    per_class: tuple[int, int]
    splits: Mapping[str, int]
    md5: Mapping[str, str] = field(default_factory=dict)
    home: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listing:
    """A data set, listed; no image is opened.

    Attributes:
        root: the folder that the files are relative to.
        classes: sorted names; a label is a place in them.
        files: (N,) paths below `root`, by class and then by name.
        names: (N,) the same below the folder of their class.
        labels: (N,) places in `classes`.
        splits: "train1", "val1", "test1", "train2", ... -> places of the images.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    names: tuple[str, ...]
    labels: Ints
    splits: Mapping[str, Ints]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One layout that data sets come in.

    Attributes:
        name: what --dataset and --source call it.
        title: what people call it.
        folds: how many it has, from 1.
        recognise: what in a folder says that it has this layout, or None where it has not; reads little.
        read: lists it; raises InputError where it is not whole.
        facts: of a data set that has been published; None for one's own.
    """

    name: str
    title: str
    folds: int
    recognise: Callable[[Path], str | None]
    read: Callable[[Path], Listing]
    facts: Facts | None = None


def split_fold(split: str) -> tuple[str, int] | None:
    """("train", 3) of "train3"; None of what names no split of a fold."""
    found = _FOLD.fullmatch(split)
    return (found[1], int(found[2])) if found else None


def first_of(path: Path, nested: Iterable[str], is_root: Callable[[Path], bool]) -> Path | None:
    """The folder itself, or the first of these folders in it, that is a data set's root.

    A folder with train/ is a tree, whatever lies beside that.
    """
    places = () if (path / "train").is_dir() else nested
    return next((root for root in (path, *(path / name for name in places)) if is_root(root)), None)


def make_listing(
    root: Path,
    classes: Sequence[str],
    images: Iterable[Image],
    splits: Mapping[str, Sequence[str]],
    again: str,
    *,
    keep_order: bool = False,
) -> Listing:
    """Sorts the images, and finds those of every split.

    Args:
        splits: name -> files.
        again: what to do where the set is not whole.
        keep_order: of the files of a split, instead of that of the images.

    Raises:
        InputError: where there are no images, or a split names one that is not there, one twice, one that another
            split of its fold has, or none.
    """
    ordered = sorted(images)
    if not ordered:
        raise InputError(f"{root} holds no images: files ending in {', '.join(EXTENSIONS)} are looked for.")
    places = {image.file: place for place, image in enumerate(ordered)}
    taken: dict[tuple[int, str], str] = {}
    found: dict[str, Ints] = {}
    for split, files in splits.items():
        _, fold = split_fold(split) or ("", 0)
        for file in files:
            if file not in places:
                raise InputError(f"{split} names {file}, which is not in {root}: {again}.")
            if (fold, file) in taken:
                other = taken[fold, file]
                what = f"names {file} twice" if other == split else f"and {other} both name {file}"
                raise InputError(f"{split} of {root} {what}: {again}.")
            taken[fold, file] = split
        if not files:
            raise InputError(f"{split} of {root} names no image: {again}.")
        chosen = [places[file] for file in files]
        found[split] = np.array(chosen if keep_order else sorted(chosen), dtype=np.int64)
    return Listing(
        root=root,
        classes=tuple(classes),
        files=tuple(image.file for image in ordered),
        names=tuple(image.name for image in ordered),
        labels=np.array([image.label for image in ordered], dtype=np.int64),
        splits=found,
    )


def inside(file: str, listing: Path, again: str) -> str:
    """The file, as a list names it, if it can lie below the list's folder.

    Raises:
        InputError: where it leads elsewhere.
    """
    parts = file.split("/")
    if os.path.isabs(file) or "\\" in file or "\0" in file or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"{listing} names {file!r}, which is no file below its folder: {again}.")
    return file


def rotate(parts: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Splits of as many folds as there are parts: fold k tests on part k, validates on the next, trains on the rest."""
    splits: dict[str, list[str]] = {}
    for fold in range(len(parts)):
        after = (fold + 1) % len(parts)
        rest = [place for place in range(len(parts)) if place not in (fold, after)]
        for name, chosen in zip(SPLITS, (rest, [after], [fold]), strict=True):
            splits[f"{name}{fold + 1}"] = [file for place in chosen for file in parts[place]]
    return splits


def deal(by_class: Iterable[Sequence[str]]) -> list[list[str]]:
    """Five parts, to which the images of each class are dealt in turn, as cards are.

    So a class has as many images in every part, or one more; who gets one more changes from class to class.
    """
    parts: list[list[str]] = [[] for _ in range(_PARTS)]
    for label, files in enumerate(by_class):
        for place, file in enumerate(files):
            parts[(place + label) % _PARTS].append(file)
    return parts


def shuffled(files: Iterable[str]) -> list[str]:
    """The files in the order of the SHA-256 of seed and name.

    It depends on no library's generator, and on no other file: one more leaves the order of the others as it is.
    """
    return sorted(files, key=lambda file: hashlib.sha256(f"{SEED}/{file}".encode(errors="surrogateescape")).digest())
