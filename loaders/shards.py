"""The `shards` store: images inside WebDataset tars, found by the index of a converted set and read by memory map."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encodings
from loaders.errors import InputError, SampleError
from loaders.manifest import NAME, Manifest, Split, check_size, open_index
from loaders.mapped import Map, MappedFile
from loaders.subset import Subset, open_named
from loaders.types import check_sample, check_samples


class ShardStore:
    """The samples of one split of a converted set, as views of its shards' memory maps. Made by `open_shards`.

    Args:
        manifest: the set's.
        name: of the split.
        files: its shards; by default those of the manifest's folder, which must be there.

    Raises:
        InputError: where a file is not what manifest and index say.
    """

    has_checksums = True

    def __init__(self, manifest: Manifest, name: str, files: Sequence[MappedFile] | None = None) -> None:
        split = manifest.splits[name]
        if not split.shards:
            raise InputError(f"{manifest.folder} has no shards of split {name!r}: convert it with --formats shards.")
        _check_open_files(len(split.shards))
        self._folder, self._split = manifest.folder, name
        self._files = files or [MappedFile(check_size(manifest.folder, shard), shard.size) for shard in split.shards]
        self._touched = np.zeros(len(self._files), dtype=np.bool_)  # since the last release
        # A plain array over the same map: numpy's memmap class costs microseconds at every row.
        self._rows: npt.NDArray[np.void] = np.asarray(open_index(manifest.folder, split))
        _check_rows(manifest, split, self._rows)
        self.classes: Sequence[str] = manifest.classes
        self.labels: npt.NDArray[np.int64] = self._rows["label"].astype(np.int64)

    def __reduce__(self) -> tuple[object, tuple[Path, str]]:
        return (open_shards, (Path(os.path.abspath(self._folder)), self._split))

    def __len__(self) -> int:
        return len(self._rows)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes and the index, which holds a checksum of every image."""
        return index_fingerprint(self.classes, self._rows)

    def read(self, sample: int) -> memoryview:
        """The image's bytes."""
        check_sample(sample, len(self))
        start, length, _, shard, *_ = self._rows[sample].item()
        self._touched[shard] = True
        try:
            data: memoryview = self._files[shard].read(start, start + length)
        except OSError as error:
            raise SampleError(self.key(sample), str(error)) from error
        return data

    def locate(self, samples: npt.NDArray[np.int64]) -> Encodings:
        """Where the images are, in the shards' maps."""
        check_samples(samples, len(self))
        rows = self._rows[samples]
        shards, places = np.unique(rows["shard"], return_inverse=True)
        maps: list[Map] = []
        for place, shard in enumerate(shards.tolist()):
            try:
                maps.append(self._files[shard].hold())
            except OSError as error:
                raise SampleError(self.key(int(samples[(places == place).argmax()])), str(error)) from error
            self._touched[shard] = True
        available = np.array([self._files[shard].available() for shard in shards], dtype=np.uint64)
        cut = rows["offset"] + rows["length"] > available[places]
        if cut.any():
            raise self._was_cut(int(samples[cut.argmax()]))
        addresses = rows["offset"] + np.array([held.address for held in maps], dtype=np.uint64)[places]
        shapes = np.zeros((len(samples), 2), dtype=np.int64)
        lengths = rows["length"].astype(np.uint64)
        return Encodings(lambda place: self.read(int(samples[place])), maps, addresses, lengths, shapes)

    def key(self, sample: int) -> str:
        """Shard and member: "train-000003.tar:n01440764/n01440764_10026.jpg".

        The member's name stands in the tar in front of the image. Where none can be read there, the place of the
        bytes stands for it, so that a message about a damaged shard can name the sample all the same.
        """
        check_sample(sample, len(self))
        offset, _, _, shard, *_ = self._rows[sample].item()
        path = self._files[shard].path
        try:
            name = _member(path, self._end_before(sample), offset)
        except Exception:  # tarfile raises nearly anything on hostile headers
            name = None
        return f"{path.name}:{name or f'byte {offset}'}"

    def origin(self, sample: int) -> tuple[str, int]:
        check_sample(sample, len(self))
        offset, _, _, shard, *_ = self._rows[sample].item()
        return os.path.abspath(self._files[shard].path), offset

    def shards(self) -> npt.NDArray[np.int64]:
        """(N,) which shard each sample lies in, as a place in the manifest's list."""
        return self._rows["shard"].astype(np.int64)

    def offset(self, sample: int) -> int:
        """Where the image's bytes begin in its shard."""
        check_sample(sample, len(self))
        return int(self._rows[sample]["offset"])

    def verify(self, sample: int) -> None:
        """Raises SampleError where the image's CRC-32 is not the index's."""
        verify_checksum(self.read(sample), self._rows[sample], self.key(sample))

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width in pixels that no image exceeds."""
        return int(self._rows["height"].max(initial=0)), int(self._rows["width"].max(initial=0))

    @functools.cached_property
    def num_bytes(self) -> int:
        """Bytes of the images."""
        return int(self._rows["length"].sum(dtype=np.int64))

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        """Takes the shards' pages, or those of the samples, out of this process."""
        if samples is None:
            for shard in np.flatnonzero(self._touched).tolist():
                self._touched[shard] = False
                self._files[shard].release()
        else:
            for file, starts, stops in self._ranges(samples):
                file.drop(starts, stops)

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        """Asks the system to read the samples' pages ahead."""
        for file, starts, stops in self._ranges(samples):
            file.will_need(starts, stops)

    def _ranges(
        self, samples: npt.NDArray[np.int64]
    ) -> Iterator[tuple[MappedFile, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Where the samples' bytes begin and end, shard by shard."""
        check_samples(samples, len(self))
        rows = self._rows[samples]
        starts = rows["offset"].astype(np.int64)
        stops = starts + rows["length"]
        for shard in np.unique(rows["shard"]):
            inside = rows["shard"] == shard
            yield self._files[shard], starts[inside], stops[inside]

    def _was_cut(self, sample: int) -> SampleError:
        return SampleError(self.key(sample), self._files[int(self._rows[sample]["shard"])].was_cut)

    def _end_before(self, sample: int) -> int:
        """Where a walk over the shard's members may begin: after the image before this one, or at the shard's start."""
        if not sample:
            return 0
        before, row = self._rows[sample - 1], self._rows[sample]
        if before["shard"] != row["shard"] or before["offset"] >= row["offset"]:
            return 0
        end = int(before["offset"]) + int(before["length"])
        return -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def open_shards(path: Path, split: str) -> ShardStore | Subset:
    """Opens one split of a converted set, or a named subset of one, by its shards.

    Raises:
        InputError: where the set has no such split, or a file is not what manifest and index say.
    """
    return open_named(path, split, ShardStore)


def index_fingerprint(classes: Sequence[str], rows: npt.NDArray[np.void]) -> str:
    """SHA-256 of the class names and the bytes of an index."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return digest.hexdigest()


def verify_checksum(data: bytes | memoryview, row: np.void, key: str) -> None:
    """Raises SampleError, which names the key, where the CRC-32 of the bytes is not that of the index's row."""
    found, expected = zlib.crc32(data), int(row["checksum"])
    if found != expected:
        raise SampleError(key, f"its CRC-32 is {found:08x} where the index says {expected:08x}")


def check_labels(file: Path, labels: npt.NDArray[np.integer], classes: Sequence[str]) -> None:
    """Raises InputError where a label is no place in the classes."""
    wrong = (labels < 0) | (labels >= len(classes))
    if wrong.any():
        sample = int(wrong.argmax())
        raise InputError(
            f"{file} gives sample {sample} label {labels[sample]} of {len(classes)} classes from 0: "
            "convert into a new folder."
        )


def _check_rows(manifest: Manifest, split: Split, rows: npt.NDArray[np.void]) -> None:
    file = manifest.folder / split.index.name
    shard = rows["shard"]
    if (outside := shard >= len(split.shards)).any():
        sample = int(outside.argmax())
        raise InputError(
            f"{file} puts sample {sample} into shard {shard[sample]} where {NAME} names {len(split.shards)}: "
            "convert into a new folder."
        )
    sizes = np.array([entry.size for entry in split.shards], dtype=np.uint64)[shard]
    # Not offset + length > size: a sum near 2**64 would wrap around and pass. This difference wraps where the first
    # test has found the row already.
    outside = rows["offset"] > sizes
    outside |= rows["length"] > sizes - rows["offset"]
    if outside.any():
        sample = int(outside.argmax())
        entry = split.shards[shard[sample]]
        raise InputError(
            f"{file} puts sample {sample} at byte {rows['offset'][sample]:,} with {rows['length'][sample]:,} bytes, "
            f"outside {entry.name} of {entry.size:,} bytes: convert into a new folder."
        )
    check_labels(file, rows["label"], manifest.classes)


def _check_open_files(shards: int) -> None:
    # Before Python 3.13 every map holds a file descriptor of its own.
    if sys.version_info >= (3, 13) or not hasattr(os, "sysconf"):
        return
    limit = os.sysconf("SC_OPEN_MAX")
    if 0 <= limit < shards + 64:  # some are for others; -1 is no limit
        raise InputError(
            f"{shards} shards need as many open files, and this process may have {limit}: "
            f"raise it with ulimit -n {2 * shards + 64}, or convert into larger shards."
        )


def _member(path: Path, start: int, offset: int) -> str | None:
    """The name of the member whose bytes begin at `offset`, looked for from the member at `start` on."""
    # A handle of its own, opened for the few names that people see: seeking in it disturbs nobody.
    with open(path, "rb") as file:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data == offset:
                    # It goes to terminals: control characters and undecodable bytes as escapes.
                    return member.name if member.name.isprintable() else ascii(member.name)
                if member.offset_data > offset:
                    break
    return None
