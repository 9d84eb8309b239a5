"""What the forms share: which files are images, how large they are, and from rows to a scan."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from convert.scan import Ints, Scan
from loaders.errors import InputError
from loaders.folders import EXTENSIONS

SPLITS = ("train", "val", "valid", "validation", "test")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Form(Protocol):
    """One form that data sets come in: what each module of this package provides."""

    def recognise(self, path: Path, /) -> str | None:
        """What in the folder says that it has this form, or None where it has not. Reads little."""

    def splits(self, path: Path, devkit: Path | None, /) -> tuple[str, ...]:
        """The splits that can be scanned."""

    def scan(self, path: Path, split: str, devkit: Path | None, why: str, /) -> Scan:
        """Lists one of the splits. Raises InputError where it is not whole."""


class Row(NamedTuple):
    """One image, as a form lists it: rows sort by class, then by name."""

    label: int
    name: str  # of its file, below the folder of its class
    file: int  # place in the scan's files
    offset: int
    length: int


def states(root: Path, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """The size of every file in bytes, and when it was changed last, in ns since 1970.

    Raises:
        InputError: where one is not there.
    """
    base = os.path.join(root, "")

    def some(first: int) -> list[tuple[int, int]]:
        found = map(os.stat, (base + name for name in names[first : first + 1024]))
        return [(state.st_size, state.st_mtime_ns) for state in found]

    try:
        # Threads, because on a network drive nearly all of this is waiting.
        with ThreadPoolExecutor(16) as pool:
            found = [state for part in pool.map(some, range(0, len(names), 1024)) for state in part]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): restore or remove it.") from error
    return [size for size, _ in found], [modified for _, modified in found]


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """Splits as people name them: training first, then validation, then the others."""
    return tuple(sorted(set(splits), key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)))


def labels_of(names: Iterable[str], classes: Sequence[str], where: str) -> list[int]:
    """The place of every class name among the classes.

    Raises:
        InputError: for a name that is not among them.
    """
    index = {name: label for label, name in enumerate(classes)}
    try:
        return [index[name] for name in names]
    except KeyError as error:
        raise InputError(
            f"{where} has images of class {error.args[0]!r}, which is not one of the {len(classes)} classes: "
            "add that class to train, or remove its images."
        ) from error


def class_key(class_name: str, name: str) -> str:
    """`<class>/<stem>`. WebDataset ends a key at the first dot of the file's name, so a stem has none."""
    folder, slash, file = name.rpartition("/")
    return f"{class_name}/{folder}{slash}{file.rpartition('.')[0].replace('.', '_')}"


def make_scan(
    *,
    kind: str,
    why: str,
    root: Path,
    split: str,
    classes: Sequence[str],
    files: Sequence[str],
    rows: Iterable[Row],
    modified: Sequence[int] | None = None,
    key: Callable[[str, str], str] = class_key,
    subsets: Mapping[str, Ints] | None = None,
) -> Scan:
    """Sorts the rows by class and name and makes a scan of them.

    Args:
        modified: when each file was changed last; looked for unless given.
        key: from class and file name to the sample's key.
        subsets: places among the rows as sorted.

    Raises:
        InputError: there are no rows, two have one key, or a key has a control character.
    """
    ordered = sorted(rows)
    if not ordered:
        raise InputError(f"{root} holds no images of {split}: files ending in {', '.join(EXTENSIONS)} are looked for.")
    for name in classes:
        # A folder is named after each class, and a list of names may come from anybody.
        if name in ("", ".", "..") or "/" in name or _CONTROL.search(name):
            raise InputError(f"{root} has a class named {name!r}, which can be no folder's name: rename it.")
    keys = tuple(key(classes[row.label], row.name) for row in ordered)
    if len(set(keys)) < len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        names = sorted(row.name for found, row in zip(keys, ordered, strict=True) if found == twice)
        raise InputError(
            f"{root} has two images of {split} with the key {twice!r}, {names[0]} and {names[1]}: rename or remove one."
        )
    if _CONTROL.search("".join(keys)):
        bad = next(name for name in keys if _CONTROL.search(name))
        raise InputError(f"{root} has an image with a control character in its name, {bad!r}: rename it.")

    def column(name: str) -> Ints:
        return np.array([getattr(row, name) for row in ordered], dtype=np.int64)

    return Scan(
        kind=kind,
        why=why,
        root=root,
        split=split,
        classes=tuple(classes),
        files=tuple(files),
        modified=np.array(states(root, files)[1] if modified is None else modified, dtype=np.int64),
        keys=keys,
        file=column("file"),
        offset=column("offset"),
        length=column("length"),
        labels=column("label"),
        subsets=subsets or {},
    )


def scan_files(
    *,
    kind: str,
    why: str,
    root: Path,
    split: str,
    classes: Sequence[str],
    files: Sequence[str],
    labels: Sequence[int],
    names: Sequence[str],
    subsets: Mapping[str, Ints] | None = None,
) -> Scan:
    """A scan of images that are a file each.

    Args:
        files: (N,) paths below `root`.
        labels: (N,) places in `classes`.
        names: (N,) file names below the folder of their class, also where `files` has no such folder.
        subsets: places among the samples by class and name.

    Raises:
        InputError: where a file is missing, or as `make_scan`.
    """
    lengths, modified = states(root, files)
    rows = [Row(label, name, 0, 0, length) for label, name, length in zip(labels, names, lengths, strict=True)]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return make_scan(
        kind=kind,
        why=why,
        root=root,
        split=split,
        classes=classes,
        files=[files[place] for place in order],
        modified=[modified[place] for place in order],
        rows=[rows[place]._replace(file=file) for file, place in enumerate(order)],
        subsets=subsets,
    )
