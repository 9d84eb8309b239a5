"""Checks a converted set against its manifest: sizes and structure, or every byte and every image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from convert.plan import digest
from convert.threads import in_threads
from loaders.errors import InputError, SampleError
from loaders.manifest import FileEntry, Manifest, check_size, open_index, read_manifest
from loaders.opening import open_store
from loaders.reference import ReferenceDecoder
from loaders.shards import ShardStore


def check(folder: Path, *, full: bool, workers: int) -> int:
    """Checks all splits of a converted set.

    Without `full`, the sizes of all files, the index and where its rows point are checked; with it also the SHA-256 of
    every file, the CRC-32 of every image, and that each image decodes to the size that the index gives.

    Returns:
        How many samples the set holds.

    Raises:
        InputError: the first thing that is wrong; a sample is named by key, shard and offset.
    """
    if workers < 1:
        raise InputError(f"workers {workers} is too small: take at least 1.")
    manifest = read_manifest(folder)
    for entry in _files(manifest):
        check_size(folder, entry)
    # Opening checks the index and where its rows point.
    stores = {split: open_store(folder, split) for split in manifest.splits}
    for name in manifest.subsets:
        open_store(folder, name)
    if full:
        # The images first: they say which one is wrong, where a file's checksum only says that something is.
        for split, store in stores.items():
            if isinstance(store, ShardStore):
                _check_images(folder, store, split, open_index(folder, manifest.splits[split]), workers)
        for entry in tqdm(list(_files(manifest)), unit="file", disable=not sys.stderr.isatty()):
            found = digest(folder / entry.name)
            if found != entry.sha256:
                raise InputError(
                    f"{folder / entry.name} has the SHA-256 {found[:16]}... where the manifest says "
                    f"{entry.sha256[:16]}...: copy it again, or convert again."
                )
    return sum(len(store) for store in stores.values())


def _files(manifest: Manifest) -> Iterator[FileEntry]:
    for split in manifest.splits.values():
        yield split.index
        yield from split.shards
        yield from split.dali
        if split.beton:
            yield split.beton
    yield from (ids for _, ids in manifest.subsets.values())


def _check_images(folder: Path, store: ShardStore, split: str, rows: npt.NDArray[np.void], workers: int) -> None:
    decoder = ReferenceDecoder()

    def check_named(sample: int) -> None:
        try:
            check_one(sample)
        except SampleError as error:
            raise InputError(
                f"{folder / error.key}, sample {sample} of {split} at byte {rows[sample]['offset']:,}, is damaged "
                f"({error.reason}): copy its shard and the index again, or convert again."
            ) from error

    def check_one(sample: int) -> None:
        store.verify(sample)
        size = (int(rows[sample]["height"]), int(rows[sample]["width"]))
        box = np.array([[0, 0, *size]], dtype=np.int64)
        out = np.empty((1, 8, 8, 3), dtype=np.uint8)
        sizes, failures = decoder.sizes([store.read(sample)])
        failures = failures or decoder.decode([store.read(sample)], box, np.zeros(1, dtype=bool), out)
        if failures:
            raise SampleError(store.key(sample), failures[0])
        if tuple(sizes[0]) != size:
            found = "x".join(map(str, sizes[0]))
            raise SampleError(store.key(sample), f"it is {found} where the index says {size[0]}x{size[1]}")

    in_threads(check_named, len(store), workers, desc=split)
