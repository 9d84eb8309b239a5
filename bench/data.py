"""What the benches read: a data set of the user's, or photographs cut to ImageNet's sizes, in every form of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench import made_set
from bench.peers.ffcv_writer import write_with_ffcv
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy, opened
from convert.images import store as stored
from convert.sources import find_source
from convert.threads import in_threads
from loaders import InputError, SampleError, Store, open_store
from loaders.cores import usable_cores
from loaders.encodings import Encoded
from loaders.manifest import NAME, is_converted
from loaders.reference import reason_of

QUALITY = 90
ORIGINAL = ImagePolicy.parse("original")
BETONS = {"500 px .beton": (500, "jpg"), "400 px .beton": (400, "jpg"), "raw 256 px .beton": (256, "raw")}


@contextlib.contextmanager
def tree_of(data_dir: Path | None, images: int, *, checked: bool = True) -> Iterator[tuple[Path, Path]]:
    """A tree with a folder train/, and an empty folder that is removed afterwards.

    Args:
        data_dir: the tree, if there is one.
        images: to make otherwise.
        checked: whether all its training images are decoded once, as those do that read all of them.

    Raises:
        InputError: where `data_dir` is no such tree, or has an image that cannot be decoded.
    """
    if data_dir:
        _check_tree(data_dir)
        if checked:
            store = open_store(data_dir, "train")
            check_images(store, range(len(store)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield data_dir or made_set.make_tree(root / made_set.NAME, images=images), root


def check_images(store: Store, samples: Sequence[int]) -> None:
    """Decodes images as far as it takes to know that a conversion and a decoder will take them.

    Raises:
        InputError: for one that they would not, which it names.
    """

    def check(place: int) -> None:
        sample = samples[place]
        try:
            data = bytes(store.read(sample))
            stored(data, ORIGINAL)
            with opened(data) as image:
                image.draft("RGB", (1, 1))  # an eighth of the sides: all bits are read, and few pixels made
                image.load()
        except SampleError as error:
            raise unusable(error.key, error.reason) from error
        except Exception as error:  # Pillow's plug-ins raise nearly anything on hostile bytes
            raise unusable(store.key(sample), reason_of(error)) from error

    in_threads(check, len(samples), usable_cores(), desc="checked")


def unusable(key: str, reason: str) -> InputError:
    """What is said of an image that cannot be measured with."""
    return InputError(f"{key} cannot be decoded ({reason}): mend or remove it, and measure again.")


def _check_tree(path: Path) -> None:
    if is_converted(path):
        raise InputError(
            f"{path} is a converted set (it holds {NAME}), and this bench makes its own sets of a tree: name the tree "
            "that it was converted from, leave --data_dir out, or measure the set by bench storage or bench train."
        )
    if path.is_file():
        raise InputError(f"{path} is a file, no folder: name a tree of images, or leave --data_dir out.")
    if not (path / "train").is_dir():
        raise InputError(f"{path} has no folder train/: name a tree of images, or leave --data_dir out.")


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
        with file.open("rb") as reading:
            with contextlib.suppress(OSError):  # of a file system that is read only, where nothing waits to be written
                os.fsync(reading.fileno())  # what was written and is not on the disk yet would stay
            os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
