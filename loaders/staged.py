"""Opens a converted set that is read through a local folder, from a slow or shared disk or from a URL."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError
from loaders.manifest import NAME, Manifest, is_converted, parse_manifest
from loaders.shards import ShardStore
from loaders.sources import Source, is_url, shown
from loaders.staging import Staging
from loaders.staging_folder import StagingFolder
from loaders.subset import Subset, find_split
from loaders.types import Store


class Staged(NamedTuple):
    """A split that is staged.

    Attributes:
        store: its samples.
        staging: what brings their shards.
        shard_of: (N,) which shard each sample is in.
    """

    store: Store
    staging: Staging
    shard_of: npt.NDArray[np.int64]


class StagedShardStore(ShardStore):
    """The samples of one split of a staged set. Made by `open_staged`."""

    def __init__(self, manifest: Manifest, name: str, staging: Staging, opened: tuple[object, ...]) -> None:
        super().__init__(manifest, name, staging.files)
        self._opened = opened
        weakref.finalize(self, staging.stop)  # whoever has only the store cannot close it

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:  # type: ignore[override]
        return (_open_whole, self._opened)


def open_staged(
    path: str | Path,
    split: str,
    folder: Path,
    *,
    store: str = "auto",
    bound: int | None = None,
    verify: bool = False,
) -> Staged:
    """Opens one split of a converted set, or a named subset of one, by its shards, of which none is there yet.

    Args:
        path: the set's folder, or its URL.
        split: name of a split or of a subset.
        folder: to stage in, which other processes and other sets may share.
        store: "shards" or "auto": other forms are not staged.
        bound: bytes that shards may take there; by default nine tenths of the free disk.
        verify: whether shards that earlier runs have left are held to their checksums again.

    Raises:
        InputError: where the set is none, has no such split or no shards, cannot be read, or cannot be staged there.
    """
    if store not in ("auto", "shards"):
        raise InputError(f"store {store!r} cannot be staged, which shards can: take shards or auto.")
    if bound is not None and bound < 1:
        raise InputError(f"a staging folder of {bound} bytes is too small: take more, or leave its bound out.")
    if not is_url(path):
        path = Path(path)
        if not is_converted(path):
            raise InputError(f"{path} is no converted set, which is what can be staged: convert it, or do not stage.")
        if folder.exists() and folder.samefile(path):
            raise InputError(f"{folder} is the set itself: stage in another folder.")
    source = Source(path)
    data = source.read_manifest()
    manifest = parse_manifest(data, folder, f"{source}/{NAME}")
    _check_names(manifest, source)
    base = manifest.subsets[split][0] if split in manifest.subsets and split not in manifest.splits else split
    if base not in manifest.splits:
        known = ", ".join((*manifest.splits, *manifest.subsets))
        raise InputError(f"{source} has no split {base!r}: it has {known}.")
    if not manifest.splits[base].shards:
        raise InputError(f"{source} has no shards of split {base!r}, which staging takes: convert --formats shards.")
    place = StagingFolder(folder, data, source, bound, verify)
    manifest = replace(manifest, folder=place.path)
    place.keep(manifest.splits[base].index)
    if base != split:
        place.keep(manifest.subsets[split][1])
    name, ids = find_split(manifest, split)
    staging = Staging(place, manifest.splits[name].shards)
    whole = StagedShardStore(manifest, name, staging, (path, name, folder, bound, verify))
    shards = whole.shards()
    return Staged(whole, staging, shards) if ids is None else Staged(Subset(whole, ids), staging, shards[ids])


def refuse_url(path: str | Path) -> None:
    """Raises InputError for a URL, where nothing is staged."""
    if is_url(path):
        raise InputError(f"{shown(path)} is a URL, which is read by way of a local folder: give --stage FOLDER.")


def _open_whole(path: str | Path, split: str, folder: Path, bound: int | None, verify: bool) -> Store:
    return open_staged(path, split, folder, bound=bound, verify=verify).store


def _check_names(manifest: Manifest, source: Source) -> None:
    """Raises InputError for names that would be confused with other files of the staging folder."""
    entries = [entry for split in manifest.splits.values() for entry in split.files]
    seen = {NAME}
    for entry in (*entries, *(ids for _, ids in manifest.subsets.values())):
        if entry.name.startswith(".") or entry.name in seen:
            raise InputError(
                f"{source}/{NAME} names a file {entry.name!r} that is hidden or there already: convert the set again."
            )
        seen.add(entry.name)
