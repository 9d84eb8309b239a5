"""The `tree` store: images as files in folders, the way that data sets are extracted.

Two layouts, told apart by what is there:

    <path>/<split>/<class>/**/*.JPEG          ImageNet, Imagenette, ImageNet-100, one's own
    <path>/images/<class>/*.jpg               DTD, whose splits are lists: `split` is train1 ... test10
    <path>/labels/<split>.txt
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
from loaders.types import check_sample, check_samples

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
PREPARING = ".preparing"  # in a split's folder whose images are not all there yet


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
        split: the name of a folder in it ("train", "val"), or for DTD of a list ("train1" to "test10").

    Raises:
        InputError: where the folder, the split, its classes or its images are not there.
    """
    if not path.is_dir():
        if path.exists():
            raise InputError(f"{path} is a file, no folder: give --data_dir the data set's folder.")
        raise InputError(f"data folder {path} does not exist: check --data_dir.")
    dtd = _dtd_root(path)
    return _open_dtd(dtd, split) if dtd else _open_folders(path, split)


def is_dtd(path: Path) -> bool:
    """Whether the folder has DTD's layout."""
    return _dtd_root(path) is not None


def _dtd_root(path: Path) -> Path | None:
    # torchvision's downloader leaves dtd/dtd/images.
    for root in (path, path / "dtd"):
        if (root / "images").is_dir() and (root / "labels").is_dir():
            return root
    return None


def _open_dtd(root: Path, split: str) -> TreeStore:
    listing = root / "labels" / f"{split}.txt"
    if not listing.is_file():
        raise InputError(f"split {split!r} has no list {listing}: DTD has train1, val1 and test1, up to 10.")
    try:
        names = [line.strip() for line in listing.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{listing} is no UTF-8 text ({error.reason} at byte {error.start}): fetch it again."
        ) from error
    classes = _class_folders(root / "images")
    index = {name: label for label, name in enumerate(classes)}
    for name in names:
        if name.count("/") != 1 or name.split("/")[0] not in index:
            raise InputError(f"{listing} names {name!r}, which is no <class>/<file> below {root / 'images'}.")
    labels = np.array([index[name.split("/")[0]] for name in names], dtype=np.int64)
    return TreeStore(root / "images", names, labels, classes)


def _open_folders(path: Path, split: str) -> TreeStore:
    folder = path / split
    if not folder.is_dir():
        raise InputError(f"{path} has no folder {split}/: it must hold {split}/<class>/<image>.")
    if (folder / PREPARING).exists():
        raise InputError(f"{folder} is not whole: start twistnet convert prepare again, which goes on where it ended.")
    found = _class_folders(folder)
    if not found:
        raise InputError(
            f"{folder} has no class folders: sort its images into {split}/<class>/; for ImageNet twistnet convert "
            "prepare does it, with --devkit."
        )
    # The training split says what the classes are: a class without validation images must not shift the labels.
    train = path / "train"
    classes = _class_folders(train) if train.is_dir() else found
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for name in found:
        if name not in index:
            raise InputError(f"class folder {folder / name} has no counterpart in {train}: remove it or add that one.")
        files = _image_files(folder, name)
        if not files and split == "train":
            raise InputError(f"class folder {folder / name} holds no images: fill it or remove it.")
        names += files
        labels += [index[name]] * len(files)
    if not names:
        raise InputError(f"{folder} holds no images: files ending in {', '.join(EXTENSIONS)} are looked for.")
    return TreeStore(folder, names, np.array(labels, dtype=np.int64), classes)


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path, name: str) -> list[str]:
    """Image files of a class, sorted, at any depth (Tiny-ImageNet keeps them in <class>/images/)."""
    files: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop()
        with os.scandir(folder / current) as entries:
            for entry in entries:
                inside = f"{current}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink() and _holds(entry.path, folder / current):
                        raise InputError(f"{entry.path} links to a folder that holds it: remove the link.")
                    pending.append(inside)
                # A link that leads nowhere is listed too, so that reading it names it; a pipe would be waited for.
                elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() or entry.is_symlink()):
                    files.append(inside)
    return sorted(files)


def _holds(link: str, folder: Path) -> bool:
    """Whether a link leads to the folder that it lies in, or to one above."""
    target = os.path.realpath(link)
    return os.path.commonpath((target, os.path.realpath(folder))) == target
