"""A named selection of a split's samples, as folds are, as a store of its own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, Encodings
from loaders.errors import InputError
from loaders.manifest import Manifest, check_size, read_manifest
from loaders.types import Store, check_sample, check_samples

StoreT = TypeVar("StoreT", bound=Store)


class Subset:
    """Some samples of another store, in an order of their own.

    Args:
        store: where they are.
        ids: (N,) int64: which of its samples; sample i of the subset is sample ids[i] of the store.
    """

    def __init__(self, store: Store, ids: npt.NDArray[np.int64]) -> None:
        self._store = store
        self._ids = ids
        self.classes = store.classes
        self.labels: npt.NDArray[np.int64] = store.labels[ids]
        self.has_checksums = store.has_checksums

    def __reduce__(self) -> tuple[type[Subset], tuple[Store, npt.NDArray[np.int64]]]:
        return (Subset, (self._store, self._ids))

    def __len__(self) -> int:
        return len(self._ids)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the other store's fingerprint and the ids."""
        digest = hashlib.sha256(self._store.fingerprint.encode())
        digest.update(np.ascontiguousarray(self._ids, dtype="<i8").tobytes())
        return digest.hexdigest()

    def read(self, sample: int) -> Encoded:
        return self._store.read(self._place(sample))

    def key(self, sample: int) -> str:
        return self._store.key(self._place(sample))

    def origin(self, sample: int) -> tuple[str, int]:
        return self._store.origin(self._place(sample))

    def verify(self, sample: int) -> None:
        self._store.verify(self._place(sample))

    def locate(self, samples: npt.NDArray[np.int64]) -> Encodings | None:
        check_samples(samples, len(self))
        return self._store.locate(self._ids[samples])

    @property
    def largest(self) -> tuple[int, int]:
        """That of all samples."""
        return self._store.largest

    @property
    def num_bytes(self) -> int:
        """About: as if its samples were as large as all are."""
        return self._store.num_bytes * len(self) // len(self._store)

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        self._store.release(None if samples is None else self._ids[samples])

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        check_samples(samples, len(self))
        self._store.hint(self._ids[samples])

    def _place(self, sample: int) -> int:
        check_sample(sample, len(self))
        return int(self._ids[sample])


def open_named(path: Path, split: str, store_of: Callable[[Manifest, str], StoreT]) -> StoreT | Subset:
    """Opens one split of a converted set, or a named subset of one.

    Args:
        path: the set's folder.
        split: name of a split or of a subset.
        store_of: makes the store of a whole split, given the manifest and the split's name.

    Raises:
        InputError: where the set has no such split, or a file is not what manifest and index say.
    """
    manifest = read_manifest(path)
    name, ids = find_split(manifest, split)
    store = store_of(manifest, name)
    return store if ids is None else Subset(store, ids)


def find_split(manifest: Manifest, name: str) -> tuple[str, npt.NDArray[np.int64] | None]:
    """The split that a name stands for, and for a named subset which of its samples: (N,) int64.

    Raises:
        InputError: where the set has no such split or subset, or the subset's ids are not the split's.
    """
    if name in manifest.splits:
        return name, None
    if name not in manifest.subsets:
        known = ", ".join((*manifest.splits, *manifest.subsets))
        raise InputError(f"{manifest.folder} has no split {name!r}: it has {known}.")
    base, entry = manifest.subsets[name]
    if base not in manifest.splits:
        raise InputError(
            f"subset {name!r} of {manifest.folder} is of a missing split {base!r}: convert into a new folder."
        )
    path, samples = check_size(manifest.folder, entry), manifest.splits[base].samples
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(
            f"{path} is no array of ids ({error}): copy it again, or convert into a new folder."
        ) from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype != np.int64 or not len(ids):
        found = f"{ids.shape} of {ids.dtype}" if isinstance(ids, np.ndarray) else type(ids).__name__
        raise InputError(f"{path} holds {found} where int64 ids are due: convert into a new folder.")
    if ids.min() < 0 or ids.max() >= samples:
        raise InputError(
            f"{path} holds ids {ids.min()} to {ids.max()} where split {base!r} has {samples} samples: "
            "convert into a new folder."
        )
    if len(np.unique(ids)) != len(ids):
        raise InputError(
            f"{path} names {len(ids) - len(np.unique(ids))} samples more than once: convert into a new folder."
        )
    return base, ids
