"""The `tree` store: images as files in folders, the way that data sets are extracted.

Told apart by what is there:

    <path>/<split>/<class>/**/*.JPEG          ImageNet, Imagenette, ImageNet-100, one's own
    the layouts of `loaders.layouts`          DTD and others with folds: `split` is train1, val1, test1, train2, ...
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError, SampleError
from loaders.folders import EXTENSIONS, PREPARING, folders, images_below
from loaders.layouts import LAYOUTS, find_layout
from loaders.layouts.layout import Layout, split_fold
from loaders.types import check_sample, check_samples


class TreeStore:
    """Files below one folder. Labels are places in the sorted list of class names.

    Args:
        root: the folder that the names are relative to.
        names: (N,) file names relative to `root`.
        labels: (N,) int64.
        classes: sorted class names.
    """

    has_checksums = False
    num_bytes = 0
    largest = (0, 0)

    def __init__(self, root: Path, names: Sequence[str], labels: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
        self._root = str(root)
        self._names = names
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self._names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of names below the root, labels and classes; the files' content is not read."""
        digest = hashlib.sha256("\n".join((*self.classes, "", *self._names)).encode(errors="surrogateescape"))
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def key(self, sample: int) -> str:
        check_sample(sample, len(self))
        return os.path.join(self._root, self._names[sample])

    def origin(self, sample: int) -> tuple[str, int]:
        return os.path.abspath(self.key(sample)), 0

    def read(self, sample: int) -> bytes:
        path = self.key(sample)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise SampleError(path, error.strerror or str(error)) from error

    def locate(self, samples: npt.NDArray[np.int64]) -> None:
        """Nowhere: each is a file of its own, to be read."""
        check_samples(samples, len(self))

    def verify(self, sample: int) -> None:
        """Nothing to compare with."""
        check_sample(sample, len(self))

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        """Nothing is mapped."""

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        # To ask for a file's pages takes opening it, which costs about as much as the reading that it would save.
        check_samples(samples, len(self))


def open_tree(path: Path, split: str) -> TreeStore:
    """Lists the images of one split.

    Args:
        path: the data set's folder.
        split: the name of a folder in it ("train", "val"), or of a split of one of its folds ("train1" to "test10").

    Raises:
        InputError: where the folder, the split, its classes or its images are not there.
    """
    if not path.is_dir():
        if path.exists():
            raise InputError(f"{path} is a file, no folder: give --data_dir the data set's folder.")
        raise InputError(f"data folder {path} does not exist: check --data_dir.")
    layout = find_layout(path)
    # The folders of a tree are named by anybody, and then look like classes.
    if layout is None or (layout is LAYOUTS["folder"] and not split_fold(split)):
        return _open_folders(path, split)
    return _open_layout(path, layout, split)


def _open_layout(path: Path, layout: Layout, split: str) -> TreeStore:
    listing = layout.read(path)
    if split not in listing.splits:
        known = list(listing.splits)
        raise InputError(
            f"{path} is {layout.title} and has no split {split!r}: it has {', '.join(known[:3])} to {known[-1]}."
        )
    places = listing.splits[split]
    files = [listing.files[place] for place in places]
    return TreeStore(listing.root, files, listing.labels[places], listing.classes)


def _open_folders(path: Path, split: str) -> TreeStore:
    folder = path / split
    if not folder.is_dir() and split_fold(split):
        titles = ", ".join(layout.title for layout in LAYOUTS.values())
        raise InputError(
            f"{path} has no split {split!r}, as it has none of the layouts with folds ({titles}): lay it out as one of "
            "them, or, where it holds class folders with misleading names, convert it with --source folder."
        )
    if not folder.is_dir():
        raise InputError(f"{path} has no folder {split}/: it must hold {split}/<class>/<image>.")
    if (folder / PREPARING).exists():
        raise InputError(f"{folder} is not whole: start twistnet convert prepare again, which goes on where it ended.")
    found = folders(folder)
    if not found:
        raise InputError(
            f"{folder} has no class folders: sort its images into {split}/<class>/; for ImageNet twistnet convert "
            "prepare does it, with --devkit."
        )
    # The training split says what the classes are: a class without validation images must not shift the labels.
    train = path / "train"
    classes = folders(train) if train.is_dir() else found
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for name in found:
        if name not in index:
            raise InputError(f"class folder {folder / name} has no counterpart in {train}: remove it or add that one.")
        files = images_below(folder, name)
        if not files and split == "train":
            raise InputError(f"class folder {folder / name} holds no images: fill it or remove it.")
        names += files
        labels += [index[name]] * len(files)
    if not names:
        raise InputError(f"{folder} holds no images: files ending in {', '.join(EXTENSIONS)} are looked for.")
    return TreeStore(folder, names, np.array(labels, dtype=np.int64), classes)
