"""What the benches read: a data set of the user's, or photographs cut to ImageNet's sizes, in every form of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench import made_set
from bench.peers.ffcv_writer import write_with_ffcv
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy
from convert.sources import find_source
from loaders import InputError
from loaders.encodings import Encoded

QUALITY = 90
BETONS = {"500 px .beton": (500, "jpg"), "400 px .beton": (400, "jpg"), "raw 256 px .beton": (256, "raw")}


@contextlib.contextmanager
def tree_of(data_dir: Path | None, images: int) -> Iterator[tuple[Path, Path]]:
    """A tree with a folder train/, and an empty folder that is removed afterwards.

    Args:
        data_dir: the tree, if there is one.
        images: to make otherwise.

    Raises:
        InputError: where `data_dir` is no such tree.
    """
    if data_dir and not (data_dir / "train").is_dir():
        raise InputError(f"{data_dir} has no folder train/: name a tree of images, or leave --data_dir out.")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield data_dir or made_set.make_tree(root / made_set.NAME, images=images), root


def in_form(form: str, tree: Path, root: Path, workers: int) -> Path:
    """The tree's training split as "tree", as "shards", or as one of BETONS, which FFCV writes.

    Args:
        form: the name.
        tree: what is converted.
        root: where it is put; what is there already is taken as it is.
        workers: processes that convert.
    """
    if form == "tree":
        return tree
    if form == "shards":
        path = root / "shards"
        if not path.exists():
            conversion = Conversion(out=path, policy=ImagePolicy.parse("original"), workers=workers)
            convert_split(find_source(tree, "train"), conversion, lambda _: None)
        return path
    max_side, mode = BETONS[form]
    path = root / f"{mode}-{max_side}.beton"
    if not path.exists():
        write_with_ffcv(tree / "train", path, max_side=max_side, quality=QUALITY, workers=workers, mode=mode)
    return path


def copied(image: Encoded) -> bytes:
    """The bytes of an image, which are read where they were only mapped."""
    return image.tobytes() if isinstance(image, np.ndarray) else bytes(image)


def files_of(path: Path) -> list[Path]:
    """The files of a set of any form, in the order of their names."""
    return sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def leave_cache(path: Path) -> None:
    """As after a restart: the system's cache forgets the set. What a process has mapped stays."""
    for file in files_of(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
