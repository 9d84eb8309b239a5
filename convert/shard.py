"""Writes one shard: a WebDataset tar, DALI's index of it, and a record of what it holds.

The record is written last, so a shard counts as finished only when all of it is there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from convert.images import BadImage, ImagePolicy, store
from convert.scan import Member
from loaders.errors import InputError
from loaders.files import write_atomically
from loaders.manifest import INDEX_DTYPE, FileEntry

BLOCK = tarfile.BLOCKSIZE
MAX_IMAGE_BYTES = 1 << 29  # about twice the raw pixels of the largest image that is taken
IMAGE_SUFFIX, LABEL_SUFFIX = "jpg", "cls"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """One shard to write.

    Attributes:
        number: its place among the split's shards.
        name: of the tar.
        root: the source's folder, which paths are told relative to.
        out: the folder that it goes to.
        records: the folder that its record goes to.
        policy: what is stored of an image.
        settings: digest of the conversion's settings.
        members: the samples, in order.
    """

    number: int
    name: str
    root: Path
    out: Path
    records: Path
    policy: ImagePolicy
    settings: str
    members: Sequence[Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What a finished shard holds.

    Attributes:
        entry: the tar.
        idx: DALI's index.
        rows: (n,) of INDEX_DTYPE.
        places: (n,) where the samples stood in the scan.
        repaired: key -> what the original was.
        bad: what was left out: place, key, path and reason of each.
        settings: digest of the settings that it was written with.
    """

    entry: FileEntry
    idx: FileEntry
    rows: npt.NDArray[np.void]
    places: npt.NDArray[np.int64]
    repaired: dict[str, str]
    bad: list[dict[str, Any]]
    settings: str


def write_shard(task: ShardTask, count: Callable[[int], object]) -> None:
    """Writes a shard.

    Args:
        task: what to write.
        count: called after each sample with the bytes that were read.

    Raises:
        InputError: where the source changed since it was scanned.
        OSError: where the source cannot be read or the target not written; what was finished stays.
    """
    writer = TarWriter()
    rows: list[tuple[int, ...]] = []
    places: list[int] = []
    repaired: dict[str, str] = {}
    bad: list[dict[str, Any]] = []

    def write(file: BinaryIO) -> None:
        writer.begin(file)
        for member in task.members:
            try:
                stored = store(read_bytes(member), task.policy)
            except BadImage as error:
                path = os.path.relpath(member.path, task.root)
                bad.append({"place": member.place, "key": member.key, "path": path, "reason": str(error)})
            else:
                offset = writer.add(member.key, stored.data, member.label)
                checksum = zlib.crc32(stored.data)
                size = (stored.height, stored.width)
                rows.append((offset, len(stored.data), checksum, task.number, member.label, *size))
                places.append(member.place)
                if stored.repaired:
                    repaired[member.key] = stored.repaired
            count(member.length)
        writer.end()

    write_atomically(task.out / task.name, write)
    index = writer.dali_index()
    idx = Path(task.name).with_suffix(".idx").name
    write_atomically(task.out / idx, lambda file: file.write(index))
    array = np.array(rows, dtype=INDEX_DTYPE)
    record = task.records / task.name
    with_places = {"rows": array, "places": np.array(places, dtype=np.int64)}
    for name, values in with_places.items():
        write_atomically(record.with_suffix(f".{name}.npy"), functools.partial(_save, values))
    text = json.dumps(
        {
            "size": writer.size,
            "sha256": writer.sha256,
            "idx": {"size": len(index), "sha256": hashlib.sha256(index).hexdigest()},
            "repaired": repaired,
            "bad": bad,
            "settings": task.settings,
        }
    )
    write_atomically(record.with_suffix(".json"), lambda file: file.write(text.encode()))


def read_record(out: Path, records: Path, name: str) -> ShardRecord | None:
    """The record of a shard; None where it is not finished, or its tar is gone or of another size."""
    record, idx = records / name, Path(name).with_suffix(".idx").name
    try:
        values = json.loads(record.with_suffix(".json").read_text())
        found = ShardRecord(
            entry=FileEntry(name=name, size=values["size"], sha256=values["sha256"]),
            idx=FileEntry(name=idx, **values["idx"]),
            rows=np.load(record.with_suffix(".rows.npy"), allow_pickle=False),
            places=np.load(record.with_suffix(".places.npy"), allow_pickle=False),
            repaired=values["repaired"],
            bad=values["bad"],
            settings=values["settings"],
        )
        whole = all((out / entry.name).stat().st_size == entry.size for entry in (found.entry, found.idx))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, EOFError):  # missing or torn
        return None
    return found if whole else None


class TarWriter:
    """Regular members with nothing of the moment in them: no time, no owner, so that equal samples give equal bytes."""

    def begin(self, file: BinaryIO) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0
        self._index: list[str] = []

    def add(self, key: str, image: bytes, label: int) -> int:
        """Appends a sample; returns where its image begins."""
        names, text = (f"{key}.{IMAGE_SUFFIX}", f"{key}.{LABEL_SUFFIX}"), b"%d" % label
        heads = tar_header(names[0], len(image)), tar_header(names[1], len(text))
        fillings = bytes(-len(image) % BLOCK), bytes(-len(text) % BLOCK)
        offset = self.size + len(heads[0])
        second = offset + len(image) + len(fillings[0]) + len(heads[1])
        # In one piece, since a write and a digest cost the same for few bytes as for many.
        self._write(b"".join((heads[0], image, fillings[0], heads[1], text, fillings[1])))
        self._index.append(
            f"{IMAGE_SUFFIX} {offset} {len(image)} {names[0]} {LABEL_SUFFIX} {second} {len(text)} {names[1]}\n"
        )
        return offset

    def end(self) -> None:
        """Two empty blocks, filled up to a record, as tar itself ends an archive."""
        self._write(bytes(2 * BLOCK))
        self._write(bytes(-self.size % tarfile.RECORDSIZE))
        self.sha256 = self._digest.hexdigest()

    def dali_index(self) -> bytes:
        """What DALI's webdataset reader wants beside the tar: version 1.2 of wds2idx's format."""
        text = f"v1.2 {len(self._index)}\n" + "".join(self._index)
        return text.encode(errors="surrogateescape")  # as the tar has names that are no UTF-8

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def _info(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


# tarfile's own header of a short name, cut at the three fields that differ: name (100 bytes), size (12), checksum (8).
_PLAIN = _info("", 0)
_PLAIN_SUM = sum(_PLAIN[100:124]) + sum(_PLAIN[136:148]) + 8 * ord(" ") + sum(_PLAIN[156:])


def tar_header(name: str, size: int) -> bytes:
    """A member's header, the bytes that tarfile gives it; tarfile's own way would be most of the work of a copy."""
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) > tarfile.LENGTH_NAME or size >= 8**11:
        return _info(name, size)
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _PLAIN[100:124], digits, _PLAIN[136:148], checksum, _PLAIN[156:]))


def read_bytes(member: Member) -> bytes:
    """The bytes of a sample of the source.

    Raises:
        BadImage: where they are more than any image of these sets has.
        InputError: where the file changed since it was scanned.
        OSError: where it cannot be read.
    """
    if member.length > MAX_IMAGE_BYTES:
        raise BadImage(f"it has {member.length:,} bytes, more than the limit of {MAX_IMAGE_BYTES:,}")
    opened = _open(member.path)  # held, since other threads may push it out of the cache, which closes it
    try:
        now = os.fstat(opened.number)
        data = os.pread(opened.number, member.length, member.offset)
    except OSError as error:
        raise OSError(error.errno, error.strerror, member.path) from error
    alone = member.offset == 0 and not member.path.endswith(".tar")
    if len(data) != member.length or (alone and now.st_size != member.length) or now.st_mtime_ns != member.modified:
        raise InputError(
            f"{member.path} changed while it was converted: {member.key} had {member.length} bytes when it was "
            "scanned; start again once nothing writes there any more."
        )
    return data


@functools.lru_cache(maxsize=64)
def _open(path: str) -> _Descriptor:
    return _Descriptor(path)


class _Descriptor:
    """A file that stays open while the next samples come from it too, as those of an archive do."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _save(values: npt.NDArray[Any], file: BinaryIO) -> None:
    np.save(file, values, allow_pickle=False)
