"""WebDataset tars: members `<key>.jpg` (jpeg, png) and `<key>.cls`, the label in ASCII digits.

Those of others, whose names say their splits, and those of a converted set, whose manifest does, with the folds in it.
Members with other extensions are passed over by name; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convert.plan import unfinished_splits
from convert.progress import Progress
from convert.scan import Ints, Scan
from convert.sources.listing import Row, in_order, make_scan
from convert.tar_members import Member, tar_members
from loaders.errors import InputError
from loaders.folders import folders, lines
from loaders.manifest import is_converted, open_index, read_manifest
from loaders.subset import find_split

_IMAGES = frozenset(("jpg", "jpeg", "png"))
_SPLIT = re.compile(r"(?<![a-z])(train|training|validation|valid|val|test)(?![a-z])")
_SYNONYMS = {"training": "train", "validation": "val", "valid": "val"}
_INFO, _CLASSES = "_info.json", "classes.txt"
_MAX_LABEL = 1_000_000
_PEEKED = 64  # members: a sample has a few, and the first tars of a folder are enough


def recognise(path: Path) -> str | None:
    """A tar that begins with an image and a label of one key."""
    tars = _tars(path)
    for name in tars[:8]:
        # What is no tar is no WebDataset either.
        with contextlib.suppress(InputError):
            found: dict[str, set[str]] = {}
            for member in itertools.islice(tar_members(path / name), _PEEKED):
                key, extension = _parts(member.name)
                found.setdefault(key, set()).add(extension)
                if "cls" in found[key] and found[key] & _IMAGES:
                    return f"{name}, the first of {len(tars):,} tars, holds {key}.cls beside its image"
    return None


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """As the names of the tars say.

    Raises:
        InputError: where one names no split.
    """
    return in_order(_by_split(path).values())


def scan(path: Path, split: str, _devkit: Path | None, why: str) -> Scan:
    """The samples of the split's tars. _info.json, a manifest or classes.txt names the classes, else their numbers do.

    Raises:
        InputError: where an image has no label or two, or a label no name.
    """
    by_split = _by_split(path)
    tars = [name for name, of in by_split.items() if of == split]
    rows: list[Row] = []
    with Progress(len(tars), unit="tar", desc=f"listing {split}") as progress:
        for place, name in enumerate(tars):
            rows += _rows(path / name, place)
            progress.update(1)
    highest = max((row.label for row in rows), default=-1)
    classes = _class_names(path)
    if classes is None:
        if split != "train" and "train" in by_split.values():
            # Else a split without images of the last classes would have fewer of them.
            train = (name for name, of in by_split.items() if of == "train")
            highest = max(highest, *(row.label for name in train for row in _rows(path / name, 0)))
        # As many digits for all, so that whoever sorts them has them in the order of the labels.
        classes = [f"{label:0{len(str(highest))}d}" for label in range(highest + 1)]
    if highest >= len(classes):
        raise InputError(
            f"{path} has the label {highest} in {split} where its class names end at {len(classes) - 1}: "
            f"correct {_INFO} or {_CLASSES}."
        )
    found = make_scan(
        kind="webdataset",
        why=why,
        root=path,
        split=split,
        classes=classes,
        files=tars,
        rows=rows,
        key=lambda _, name: name,
    )
    return dataclasses.replace(found, subsets=_subsets(path, found)) if is_converted(path) else found


def _subsets(path: Path, scan: Scan) -> dict[str, Ints]:
    """The folds of a converted set, as places in the scan of the split that they are of."""
    manifest = read_manifest(path)
    named = {name: find_split(manifest, name)[1] for name, (base, _) in manifest.subsets.items() if base == scan.split}
    if not named:
        return {}
    split = manifest.splits[scan.split]
    place_of = {
        (scan.files[file], at): place for place, (file, at) in enumerate(zip(scan.file, scan.offset, strict=True))
    }
    index = open_index(path, split)
    places = np.array(
        [place_of[split.shards[shard].name, at] for shard, at in zip(index["shard"], index["offset"], strict=True)]
    )
    return {name: places[ids] for name, ids in named.items()}


def _tars(path: Path) -> list[str]:
    """The tars in the folder and in folders of it, which may be named after the splits.

    Those of converted sets in such a folder are none of this source, whole or begun.
    """
    below = [path / name for name in folders(path)]
    inside = [folder for folder in below if not is_converted(folder) and not unfinished_splits(folder)]
    tars = (tar for folder in (path, *inside) for tar in folder.glob("*.tar") if tar.is_file())
    return sorted(str(tar.relative_to(path)) for tar in tars)


def _by_split(path: Path) -> dict[str, str]:
    """Every tar and its split: as a manifest says, else as its name does.

    Raises:
        InputError: where neither does.
    """
    splits = read_manifest(path).splits.items() if is_converted(path) else ()
    known = {shard.name: split for split, entry in splits for shard in entry.shards}
    return {name: known.get(name) or _named(path, name) for name in _tars(path)}


def _named(path: Path, name: str) -> str:
    words: list[str] = _SPLIT.findall(name.lower())
    found = {_SYNONYMS.get(word, word) for word in words}
    if len(found) != 1:
        raise InputError(f"{path / name} names no split, or two: give it train, val or test in its name.")
    return found.pop()


def _parts(name: str) -> tuple[str, str]:
    """Key and extension: a key ends at the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _rows(path: Path, file: int) -> Iterator[Row]:
    found: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    for member in tar_members(path):
        key, extension = _parts(member.name)
        kept = found if extension in _IMAGES else labels if extension == "cls" else None
        if kept is None:
            continue
        if key in kept:
            raise InputError(f"{path} has two images or labels with the key {key!r}: pack it again with one.")
        kept[key] = member
    odd = sorted(found.keys() ^ labels.keys())
    if odd:
        has, lacks = ("an image", "label (.cls)") if odd[0] in found else ("a label", "image (.jpg, .jpeg or .png)")
        raise InputError(f"{path} has {has} with the key {odd[0]!r} but no {lacks}: pack it again with both.")
    with open(path, "rb", buffering=0) as tar:
        for key, member in found.items():
            yield Row(_label(path, tar.fileno(), labels[key]), key, file, member.offset, member.length)


def _label(path: Path, fd: int, member: Member) -> int:
    text = os.pread(fd, min(member.length, 32), member.offset).strip()
    if not text.isdigit() or member.length > 32 or int(text) > _MAX_LABEL:
        raise InputError(
            f"{path}: member {member.name!r} holds {text[:20]!r}, which is no label from 0 to {_MAX_LABEL:,}: "
            "pack it again with numbers."
        )
    return int(text)


def _class_names(path: Path) -> list[str] | None:
    """In the order of the labels; None where they have no names."""
    info = path / _INFO
    if info.is_file():
        try:
            values = json.loads(info.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{info} cannot be read as JSON ({error}): restore or remove it.") from error
        names = values.get("classes") or values.get("class_names") if isinstance(values, dict) else None
        if names:  # timm's own names files and counts only
            return _distinct(info, [str(name) for name in names])
    if is_converted(path):
        return list(read_manifest(path).classes)
    listing = path / _CLASSES
    return _distinct(listing, lines(listing)) if listing.is_file() else None


def _distinct(file: Path, names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file} names the class {twice!r} twice: give every label a name of its own.")
    return names
