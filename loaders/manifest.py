"""The manifest and the index of a converted data set: what its files must hold, read and checked before they are used.

<folder>/manifest.json                  what was converted, how, and every file with its size and SHA-256
<folder>/<split>.index.npy              a row a sample, memory-mapped
<folder>/<split>-000000.tar, .idx ...   the shards
<folder>/<split>.beton                  FFCV's file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError

FORMAT = 2
NAME = "manifest.json"

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # of the image's bytes in its shard
        ("length", "<u4"),  # in bytes
        ("checksum", "<u4"),  # CRC-32 of those bytes
        ("shard", "<u4"),  # place in the manifest's list of shards
        ("label", "<i4"),  # place in the manifest's list of classes
        ("height", "<u2"),  # in pixels
        ("width", "<u2"),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a converted set.

    Attributes:
        name: relative to the set's folder.
        size: in bytes.
        sha256: of its content, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of a converted set.

    Attributes:
        samples: how many it holds.
        index: the file with a row a sample.
        shards: the tars, in order; empty where only a beton was written.
        dali: DALI's indexes of them.
        beton: FFCV's file, or None.
        repaired: the list of images that were repaired, or None where there are none.
    """

    samples: int
    index: FileEntry
    shards: tuple[FileEntry, ...]
    dali: tuple[FileEntry, ...]
    beton: FileEntry | None
    repaired: FileEntry | None

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """All of them."""
        return (self.index, *self.shards, *self.dali, *(entry for entry in (self.beton, self.repaired) if entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a converted set says of itself.

    Attributes:
        folder: where it lies.
        classes: names; a label is a place in them.
        splits: by name.
        subsets: named selections of a split's samples, as folds are: name -> (split, file of int64 ids).
        quarantine: the list of images that were left out of any split.
        values: the whole file, for those who want to know how it was made.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    subsets: Mapping[str, tuple[str, FileEntry]]
    quarantine: FileEntry | None
    values: Mapping[str, Any]


def is_converted(path: Path) -> bool:
    """Whether the folder holds a converted set."""
    return (path / NAME).is_file()


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of a converted set; the files that it names are not looked at.

    Raises:
        InputError: where it is missing, torn, of another format or names files outside its folder.
    """
    file = path / NAME
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist: name a folder that twistnet convert has written.") from error
    return parse_manifest(data, path, str(file))


def parse_manifest(data: bytes, folder: Path, shown: str) -> Manifest:
    """The manifest that these bytes are.

    Args:
        data: of manifest.json.
        folder: where the set's files are, or will be.
        shown: how messages call it.

    Raises:
        InputError: as `read_manifest`.
    """
    try:
        values = json.loads(data.decode("utf-8"))
        found = values["format"]
        if found != FORMAT:
            raise InputError(
                f"{shown} has format {found}, this version reads {FORMAT}: convert the data set into a new folder."
            )
        return Manifest(
            folder=folder,
            classes=tuple(str(name) for name in values["classes"]),
            splits={_plain(name): _split(entry) for name, entry in values["splits"].items()},
            subsets={
                _plain(name): (str(entry["split"]), _file(entry["ids"]))
                for name, entry in values.get("subsets", {}).items()
            },
            quarantine=_file(values["quarantine"]) if values.get("quarantine") else None,
            values=values,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{shown} is no manifest ({reason}): convert the data set into a new folder.") from error


def check_size(folder: Path, entry: FileEntry) -> Path:
    """The path of a file that has the size that the manifest gives.

    Raises:
        InputError: where it is missing or of another size; both are quoted.
    """
    path = folder / entry.name
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing though {NAME} names it: copy it here, or convert into a new folder."
        ) from error
    if size != entry.size:
        raise InputError(
            f"{path} has {size:,} bytes where {NAME} says {entry.size:,}: copy it again, or convert into a new folder."
        )
    return path


def open_index(folder: Path, split: Split) -> npt.NDArray[np.void]:
    """The index of a split: (N,) of INDEX_DTYPE, memory-mapped, read-only.

    Raises:
        InputError: where the file is not what the manifest says.
    """
    path = check_size(folder, split.index)
    try:
        rows: npt.NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is no index ({error}): copy it again, or convert into a new folder.") from error
    if not isinstance(rows, np.ndarray):  # numpy opens archives of arrays too
        raise InputError(f"{path} is no index but a {type(rows).__name__}: convert into a new folder.")
    if rows.dtype != INDEX_DTYPE or rows.shape != (split.samples,):
        raise InputError(
            f"{path} holds {rows.shape} rows of {rows.dtype.names} where {NAME} says {split.samples} samples: "
            "convert into a new folder."
        )
    return rows


def _split(entry: Mapping[str, Any]) -> Split:
    beton = entry.get("beton")
    return Split(
        samples=int(entry["samples"]),
        index=_file(entry["index"]),
        shards=tuple(_file(shard) for shard in entry["shards"]),
        dali=tuple(_file(index) for index in entry.get("dali", ())),
        beton=_file(beton) if beton else None,
        repaired=_file(entry["repaired_list"]) if entry.get("repaired_list") else None,
    )


def _file(entry: Mapping[str, Any]) -> FileEntry:
    name, size = _plain(str(entry["name"])), int(entry["size"])
    if size < 0:
        raise ValueError(f"the size {size} of {name} is negative")
    return FileEntry(name=name, size=size, sha256=str(entry["sha256"]))


def _plain(name: str) -> str:
    # Of splits too: files are named after them.
    if Path(name).name != name or name in ("", ".", "..") or not name.isprintable():
        raise ValueError(f"the name {name!r} leads out of the folder")
    return name
