"""What a source holds, before any image is read: where each sample's bytes are, and what it is."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Member(NamedTuple):
    """Where one sample's bytes are, and what it is."""

    place: int  # in the scan
    key: str
    path: str
    offset: int
    length: int
    label: int
    modified: int  # the file's time of change in ns since 1970


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """The samples of one split in the source's own order: by class, then by name.

    Attributes:
        kind: what the source was recognised as, one of `convert.sources.KINDS`.
        why: a sentence that says what was found there.
        root: the source's folder.
        split: "train", "val", ...; "all" for a data set with folds, which are subsets of the same images.
        classes: sorted names; a label is a place in them (a WebDataset's are in the order of its labels).
        files: (F,) paths relative to `root` that hold the bytes: an image each, or archives.
        modified: (F,) when each was changed last, in ns since 1970.
        keys: (N,) unique names, <class>/<stem> where classes have folders: what names a sample to a person.
        file: (N,) place in `files`.
        offset: (N,) where the sample's bytes begin in its file.
        length: (N,) how many bytes.
        labels: (N,) places in `classes`.
        subsets: named selections of the samples: name -> places, as folds are.
    """

    kind: str
    why: str
    root: Path
    split: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    modified: Ints
    keys: tuple[str, ...]
    file: Ints
    offset: Ints
    length: Ints
    labels: Ints
    subsets: Mapping[str, Ints] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of keys, labels, lengths and classes: equal for the same images in another layout."""
        digest = hashlib.sha256("\n".join((*self.classes, "", *self.keys)).encode(errors="surrogateescape"))
        for array in (self.labels, self.length):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return digest.hexdigest()

    def member(self, place: int) -> Member:
        """One sample, by its place."""
        file = self.file[place]
        return Member(
            place=place,
            key=self.keys[place],
            path=str(self.root / self.files[file]),
            offset=int(self.offset[place]),
            length=int(self.length[place]),
            label=int(self.labels[place]),
            modified=int(self.modified[file]),
        )
