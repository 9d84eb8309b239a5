"""Checks a converted set against its manifest: sizes and structure, or every byte and every image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convert.plan import digest, unfinished_splits
from convert.progress import Progress
from convert.threads import in_threads
from loaders.beton import ConvertedBetonStore
from loaders.errors import InputError, SampleError
from loaders.manifest import FileEntry, Manifest, Split, check_size, open_index, read_manifest
from loaders.reference import ReferenceDecoder
from loaders.shards import ShardStore
from loaders.subset import find_split


def check(folder: Path, *, full: bool, workers: int) -> int:
    """Checks all splits of a converted set.

    Without `full`, the sizes of all files, the index, FFCV's file and where their rows point are checked; with it also
    the SHA-256 of every file, the CRC-32 of every image, and that each image decodes to the size that the index gives.

    Returns:
        How many samples the set holds.

    Raises:
        InputError: the first thing that is wrong; a sample is named by key, file and offset.
    """
    if workers < 1:
        raise InputError(f"workers {workers} is too small: take at least 1.")
    manifest = read_manifest(folder)
    for entry in _files(manifest):
        check_size(folder, entry)
    # Opening checks the structure and where the rows point.
    stores = {name: list(_stores(manifest, name, split)) for name, split in manifest.splits.items()}
    for name in manifest.subsets:
        find_split(manifest, name)
    if full:
        # The images first: they say which one is wrong, where a file's checksum only says that something is.
        for name, opened in stores.items():
            rows = open_index(folder, manifest.splits[name])
            for place, store in enumerate(opened):
                # What has the checksum of an image that was decoded decodes too.
                _check_images(folder, store, name, rows if place == 0 else None, workers)
        files = list(_files(manifest))
        with Progress(len(files), unit="file", desc="checksums") as progress:
            for entry in files:
                found = digest(folder / entry.name)
                if found != entry.sha256:
                    raise InputError(
                        f"{folder / entry.name} has the SHA-256 {found[:16]}... where the manifest says "
                        f"{entry.sha256[:16]}...: copy it again, or convert into a new folder."
                    )
                progress.update(1)
    if unfinished := unfinished_splits(folder):
        raise InputError(
            f"{folder} is right as far as it goes, but {', '.join(unfinished)} was begun and is not finished: start "
            "twistnet convert again, or convert merge."
        )
    return sum(split.samples for split in manifest.splits.values())


def _stores(manifest: Manifest, name: str, split: Split) -> Iterator[ShardStore | ConvertedBetonStore]:
    """Every form that the split is there in."""
    if split.shards:
        yield ShardStore(manifest, name)
    if split.beton:
        yield ConvertedBetonStore(manifest, name)


def _files(manifest: Manifest) -> Iterator[FileEntry]:
    for split in manifest.splits.values():
        yield from split.files
    yield from (ids for _, ids in manifest.subsets.values())
    if manifest.quarantine:
        yield manifest.quarantine


def _check_images(
    folder: Path, store: ShardStore | ConvertedBetonStore, split: str, rows: np.ndarray | None, workers: int
) -> None:
    """Checks all checksums, and where the index's rows are given that the images decode to the sizes in them."""
    decoder = ReferenceDecoder()

    def check_named(sample: int) -> None:
        try:
            store.verify(sample)
            if rows is not None:
                decode(sample, (int(rows[sample]["height"]), int(rows[sample]["width"])))
        except SampleError as error:
            raise InputError(
                f"{folder / error.key}, sample {sample} of {split} at byte {store.offset(sample):,}, is damaged "
                f"({error.reason}): copy its file and the index again, or convert into a new folder."
            ) from error

    def decode(sample: int, size: tuple[int, int]) -> None:
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
