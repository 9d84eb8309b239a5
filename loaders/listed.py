"""Image files that are no data set: found, read and decoded as evaluation shows them, with those that fail named.

paths -> find_images -> the files -> decoded -> what each group of them shows, and what is wrong with the others
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.crops import CropPolicy
from loaders.encodings import Encoded
from loaders.errors import InputError, SampleError
from loaders.folders import EXTENSIONS
from loaders.prefetch import Prefetch
from loaders.tree import TreeStore
from loaders.types import Decoder

_READERS = 4  # files that are read at a time
_AHEAD = 2  # groups that wait for the consumer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Some files, one after the other in the list.

    Attributes:
        places: (n,) which of the files these are, in the list's order.
        pixels: (n, size, size, 3) uint8 of those.
        failures: what is wrong with the others of the group, by their place in the list.
    """

    places: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    failures: dict[int, str]


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files that paths stand for: themselves, whatever they are called, and the images in folders at any depth.

    A folder's are sorted, those directly in it first; hidden ones are left out, and links to folders are not followed.

    Raises:
        InputError: where a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist: name image files, or folders of them.")
        if not path.is_dir():
            found.append(path)
            continue
        inside: list[Path] = []
        for folder, below, names in os.walk(path, onerror=_raise):
            below[:] = sorted(name for name in below if not name.startswith("."))
            images = (name for name in sorted(names) if name.lower().endswith(EXTENSIONS) and not name.startswith("."))
            inside += [Path(folder, name) for name in images]
        if not inside:
            raise InputError(f"{path} holds no images: files ending in {', '.join(EXTENSIONS)} are looked for.")
        found += inside
    return found


@contextmanager
def decoded(
    files: Sequence[Path], decoder: Decoder, crops: CropPolicy, size: int, at_once: int
) -> Iterator[Iterator[Decoded]]:
    """Decodes files ahead of the consumer, in groups of `at_once`, to the evaluation crop of each.

    Args:
        files: what to decode.
        decoder: makes the pixels, in host memory.
        crops: which part of each is shown, and how it is resized.
        size: side of the result in pixels.
        at_once: files of a group.
    """
    store = TreeStore(Path(), [str(path) for path in files], np.zeros(len(files), dtype=np.int64), ())
    with ThreadPoolExecutor(_READERS, thread_name_prefix="twistnet-read") as readers:

        def groups(stopped: Callable[[], bool]) -> Iterator[Decoded]:
            for first in range(0, len(files), at_once):
                if stopped():
                    return
                places = range(first, min(first + at_once, len(files)))
                read = list(readers.map(lambda place: _read(store, place), places))
                yield _decode(read, first, decoder, crops, size)

        ahead = Prefetch(groups, depth=_AHEAD)
        try:
            yield _items(ahead)
        finally:
            ahead.close()


def _items(ahead: Prefetch[Decoded]) -> Iterator[Decoded]:
    while True:
        try:
            item = ahead.get()
        except StopIteration:
            return
        yield item


def _read(store: TreeStore, place: int) -> Encoded | SampleError:
    try:
        return store.read(place)
    except SampleError as error:
        return error


def _decode(
    read: Sequence[Encoded | SampleError], first: int, decoder: Decoder, crops: CropPolicy, size: int
) -> Decoded:
    failures = {place: each.reason for place, each in enumerate(read) if isinstance(each, SampleError)}
    data = [b"" if isinstance(each, SampleError) else each for each in read]
    sizes, unknown = decoder.sizes(data)
    failures = {**unknown, **failures}
    rest = np.array([place for place in range(len(data)) if place not in failures], dtype=np.int64)
    pixels = np.empty((len(rest), size, size, 3), dtype=np.uint8)
    if len(rest):
        boxes = crops.boxes(0, 0, rest, sizes[rest], train=False)
        wrong = decoder.decode([data[place] for place in rest], boxes, np.zeros(len(rest), dtype=np.bool_), pixels)
        failures |= {int(rest[place]): reason for place, reason in wrong.items()}
        fine = np.array([place not in wrong for place in range(len(rest))], dtype=np.bool_)
        rest, pixels = rest[fine], pixels[fine]
    return Decoded(places=rest + first, pixels=pixels, failures={first + place: why for place, why in failures.items()})


def _raise(error: OSError) -> None:
    raise error
