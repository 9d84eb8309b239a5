"""The `beton` store: FFCV's file, read by memory map without FFCV.

All numbers are little-endian, and the layout is that of FFCV's format 2:

    24 bytes             header: format, fields, page size, samples, where the allocation table begins
    1,041 bytes a field  kind, name, arguments
    24 bytes a sample    metadata: the image's mode, size and place, and the label, in the order of the fields
    pages                JPEG bytes or raw pixels
    24 bytes a sample    allocation table: sample, place, length; to the end of the file, in the order of writing
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encodings
from loaders.errors import InputError, SampleError
from loaders.manifest import NAME, Manifest, check_size, open_index
from loaders.mapped import MappedFile
from loaders.shards import check_labels, index_fingerprint, verify_checksum
from loaders.subset import Subset, open_named
from loaders.types import check_sample, check_samples

FORMAT = 2
HEADER = np.dtype([("format", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")])
FIELD = np.dtype([("kind", "u1"), ("name", "S16"), ("arguments", "V1024")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("offset", "<u8")])
LABEL = np.dtype("<i8")
ALLOCATION = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("length", "<u8")])
KINDS = ("float", "int", "image", "bytes", "array", "JSON", "tensor")  # a field's kind is a place in them
JPEG, RAW = 0, 1
MAX_CLASSES = 1_000_000  # without a list of classes every label up to the largest gets a name
PROBES = 64

_Structs: TypeAlias = npt.NDArray[np.void]


class _Content(NamedTuple):
    """Where the samples of a beton are: arrays over its map, by sample."""

    images: _Structs  # (N,) of IMAGE
    labels: npt.NDArray[np.int64]  # (N,)
    lengths: npt.NDArray[np.uint64]  # (N,) in bytes


class BetonStore:
    """The samples of one `.beton`: JPEG bytes, or raw pixels (H, W, 3), as views of its memory map.

    Args:
        path: the file.
        classes: names; by default "0" to the largest label.

    Raises:
        InputError: where the file is no whole beton of one image and one integer a sample.
    """

    has_checksums = False

    def __init__(self, path: Path, classes: Sequence[str] | None = None) -> None:
        self._path, self._given = path, classes
        try:
            self._file = MappedFile(path, path.stat().st_size)
            content = _read(path, self._file)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): name a .beton file.") from error
        self.labels = content.labels
        self.classes: Sequence[str] = _number_names(path, content.labels) if classes is None else tuple(classes)
        check_labels(path, self.labels, self.classes)
        self._images, self._lengths = content.images, content.lengths

    def __reduce__(self) -> tuple[object, tuple[Path, Sequence[str] | None]]:
        return (BetonStore, (Path(os.path.abspath(self._path)), self._given))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def holds_pixels(self) -> bool:
        """Whether most samples are raw pixels, which need no decoding."""
        return bool((self._images["mode"] == RAW).mean() > 0.5)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of classes, labels, modes, sizes and lengths, and of the bytes of 64 samples spread over the file.

        Not of all bytes, which may be hundreds of gigabytes; nor of their places, in which two conversions of the
        same images may differ.
        """
        digest = hashlib.sha256(json.dumps(list(self.classes)).encode())
        digest.update(self.labels.tobytes())
        for name in ("mode", "height", "width"):
            digest.update(self._images[name].tobytes())
        digest.update(self._lengths.tobytes())
        for sample in np.unique(np.linspace(0, len(self) - 1, PROBES).astype(np.int64)):
            digest.update(self._bytes(int(sample)))
        return digest.hexdigest()

    def read(self, sample: int) -> memoryview | npt.NDArray[np.uint8]:
        """JPEG bytes, or raw pixels as (H, W, 3) uint8, read-only."""
        check_sample(sample, len(self))
        mode, width, height, _ = self._images[sample].item()
        data = self._bytes(sample)
        return data if mode == JPEG else np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def locate(self, samples: npt.NDArray[np.int64]) -> Encodings:
        """Where the images are, in the file's map."""
        check_samples(samples, len(self))
        images = self._images[samples]
        shapes = np.stack([images["height"], images["width"]], axis=1).astype(np.int64)
        shapes[images["mode"] == JPEG] = 0
        cut = images["offset"] + self._lengths[samples] > self._file.available()
        if cut.any():
            raise self._was_cut(int(samples[cut.argmax()]))
        addresses = images["offset"] + np.uint64(self._file.address)
        return Encodings(
            lambda place: self.read(int(samples[place])), self._file, addresses, self._lengths[samples], shapes
        )

    def key(self, sample: int) -> str:
        """File and sample, "train.beton[17]": a beton keeps no names."""
        check_sample(sample, len(self))
        return f"{self._path.name}[{sample}]"

    def origin(self, sample: int) -> tuple[str, int]:
        return os.path.abspath(self._path), self.offset(sample)

    def verify(self, sample: int) -> None:
        """Nothing to compare with: FFCV's format has no checksums."""
        check_sample(sample, len(self))

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width in pixels that no image exceeds."""
        return int(self._images["height"].max(initial=0)), int(self._images["width"].max(initial=0))

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of the images."""
        return int(self._lengths.sum())

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        """Takes the file's pages, or those of the samples, out of this process."""
        if samples is None:
            self._file.release()
        else:
            self._file.drop(*self._ranges(samples))

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        """Asks the system to read the samples' pages ahead."""
        self._file.will_need(*self._ranges(samples))

    def _ranges(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where the samples' bytes begin and end."""
        check_samples(samples, len(self))
        starts = self._images["offset"][samples].astype(np.int64)
        return starts, starts + self._lengths[samples].astype(np.int64)

    def offset(self, sample: int) -> int:
        """Where the image's bytes begin in the file."""
        check_sample(sample, len(self))
        return int(self._images["offset"][sample])

    def _bytes(self, sample: int) -> memoryview:
        start = self.offset(sample)
        try:
            return self._file.read(start, start + int(self._lengths[sample]))
        except OSError as error:
            raise SampleError(self.key(sample), str(error)) from error

    def _was_cut(self, sample: int) -> SampleError:
        return SampleError(self.key(sample), self._file.was_cut)


class ConvertedBetonStore(BetonStore):
    """The beton of one split of a converted set, held to the set's manifest and index. Made by `open_beton_split`."""

    has_checksums = True  # of JPEGs; raw pixels are held to their size

    def __init__(self, manifest: Manifest, name: str) -> None:
        folder, split = manifest.folder, manifest.splits[name]
        if not split.beton:
            raise InputError(f"{folder} has no beton of split {name!r}: convert it with --formats beton.")
        path = check_size(folder, split.beton)
        super().__init__(path, manifest.classes)
        self._folder, self._split = folder, name
        self._rows: _Structs = np.asarray(open_index(folder, split))
        if len(self) != split.samples:
            raise InputError(
                f"{path} holds {len(self)} samples where {NAME} says {split.samples}: convert into a new folder."
            )
        wrong = self.labels != self._rows["label"]
        if wrong.any():
            sample = int(wrong.argmax())
            raise InputError(
                f"{path} gives sample {sample} label {self.labels[sample]} where {split.index.name} says "
                f"{self._rows['label'][sample]}: convert into a new folder."
            )

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return (open_beton_split, (Path(os.path.abspath(self._folder)), self._split))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes and the index, as that of the shards of the same conversion."""
        return index_fingerprint(self.classes, self._rows)

    def verify(self, sample: int) -> None:
        """Raises SampleError where a JPEG's CRC-32, or the size of raw pixels, is not the index's."""
        data, row = self.read(sample), self._rows[sample]
        if not isinstance(data, np.ndarray):
            verify_checksum(data, row, self.key(sample))
        elif data.shape[:2] != (row["height"], row["width"]):
            found, expected = f"{data.shape[0]}x{data.shape[1]}", f"{row['height']}x{row['width']}"
            raise SampleError(self.key(sample), f"it is {found} where the index says {expected}")


def open_beton(path: Path, classes: Sequence[str] | None = None) -> BetonStore:
    """Opens a bare `.beton`; without `classes` they are "0" to the largest label.

    Raises:
        InputError: where the file is no whole beton of one image and one integer a sample, or a label is no class.
    """
    return BetonStore(path, classes)


def open_beton_split(path: Path, split: str) -> ConvertedBetonStore | Subset:
    """Opens one split of a converted set, or a named subset of one, by its beton.

    Raises:
        InputError: where the set has no such split, or a file is not what manifest and index say.
    """
    return open_named(path, split, ConvertedBetonStore)


def _read(path: Path, file: MappedFile) -> _Content:
    size = file.size
    if size < HEADER.itemsize:
        raise InputError(f"{path} has {size} bytes, too few for a .beton: name a file that FFCV has written.")
    view = file.view
    # Python's integers from here on: a hostile number of samples must not wrap around.
    version, fields, _, samples, table = np.frombuffer(view, HEADER, 1)[0].item()
    if version != FORMAT:
        raise InputError(f"{path} has format {version} where a .beton has {FORMAT}: write it with FFCV 1.x.")
    metadata = HEADER.itemsize + fields * FIELD.itemsize
    if size < metadata:
        raise InputError(f"{path} has {size:,} bytes where its {fields} fields need {metadata:,}: copy it again.")
    layout = _layout(path, np.frombuffer(view, FIELD, fields, HEADER.itemsize))
    if not samples:
        raise InputError(f"{path} holds no samples: write it again.")
    pages = metadata + samples * layout.itemsize
    if table < pages:
        raise InputError(
            f"{path} was not written to its end (its table stands at byte {table:,}, its data from {pages:,}): "
            "write it again."
        )
    if size != (whole := table + samples * ALLOCATION.itemsize):
        raise InputError(f"{path} has {size:,} bytes where its header asks for {whole:,}: copy or write it again.")
    rows = np.frombuffer(view, layout, samples, metadata)
    images = np.ascontiguousarray(rows["image"])
    allocations = np.frombuffer(view, ALLOCATION, samples, table)
    allocations = allocations[np.argsort(allocations["sample"])]
    offsets, lengths = allocations["offset"], allocations["length"]
    _check_images(path, images, lengths)
    # Not offset + length > table: a sum near 2**64 would wrap around and pass.
    wrong = allocations["sample"] != np.arange(samples, dtype=np.uint64)
    wrong |= offsets != images["offset"]
    wrong |= (offsets < pages) | (offsets > table) | (lengths > table - offsets)
    if wrong.any():
        sample = int(wrong.argmax())
        raise InputError(
            f"{path} puts sample {sample} at byte {images['offset'][sample]:,} where its table says "
            f"{lengths[sample]:,} bytes at {offsets[sample]:,} and data lie at {pages:,} to {table:,}: write it again."
        )
    return _Content(images, rows["label"].astype(np.int64), np.ascontiguousarray(lengths))


def _layout(path: Path, fields: _Structs) -> np.dtype[np.void]:
    """The type of a sample's metadata: the fields in their order, aligned as C aligns them."""
    known = {KINDS.index("image"): ("image", IMAGE), KINDS.index("int"): ("label", LABEL)}
    kinds = fields["kind"].tolist()
    if sorted(kinds) != sorted(known):
        names = [bytes(name).decode(errors="replace") for name in fields["name"]]
        found = [
            f"{name!r} of kind {KINDS[kind] if kind < len(KINDS) else kind}"
            for name, kind in zip(names, kinds, strict=True)
        ]
        raise InputError(
            f"{path} has fields {', '.join(found[:8]) or 'none'}: write it with one RGBImageField and one IntField."
        )
    return np.dtype([known[kind] for kind in kinds], align=True)


def _check_images(path: Path, images: _Structs, lengths: npt.NDArray[np.uint64]) -> None:
    raw = images["mode"] == RAW
    pixels = images["height"].astype(np.uint64) * images["width"]
    wrong = ~raw & (images["mode"] != JPEG)
    wrong |= pixels == 0
    wrong |= raw & (lengths != 3 * pixels)
    if wrong.any():
        sample = int(wrong.argmax())
        mode, width, height, _ = images[sample].item()
        raise InputError(
            f"{path} holds sample {sample} in mode {mode} with {lengths[sample]:,} bytes for {height} x {width} "
            f"pixels, where {JPEG} is JPEG and {RAW} is three bytes a pixel: write it again."
        )


def _number_names(path: Path, labels: npt.NDArray[np.int64]) -> tuple[str, ...]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise InputError(
            f"{path} has labels {low} to {high}, which are no classes from 0 to at most {MAX_CLASSES - 1:,}: "
            "write it again with places in a list of classes."
        )
    return tuple(str(label) for label in range(high + 1))
