"""The guide's second step: the official archives, or any other source, to a tree of folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TextIO

import numpy as np

from convert.estimate import refuse_a_small_disk
from convert.scan import Scan
from convert.shard import read_bytes
from convert.sources import recognise
from convert.threads import in_threads
from loaders.errors import InputError
from loaders.files import is_same, take_lock
from loaders.folders import PREPARING, folders

_MISSING = -1


def kind_of(path: Path, out: Path, kind: str) -> str:
    """What to read the source as, which may lie in the folder that is written to: the tree there is no source.

    Args:
        path: the source's folder.
        out: where the tree goes.
        kind: "auto" or one of `convert.sources.KINDS`, which stays.

    Raises:
        InputError: where the folder holds nothing but the tree.
    """
    if kind != "auto" or not is_same(path, out):
        return kind
    others = [found for found, _ in recognise(path) if found != "tree"]
    if not others:
        raise InputError(f"{path} is such a tree already: name another --out to copy it.")
    return others[0] if len(others) == 1 else kind


def prepare(scan: Scan, out: Path, workers: int) -> int:
    """Writes every image of a scan as <out>/<split>/<class>/<stem>.JPEG, its bytes untouched.

    What is there already with the right size is left, so a second start goes on where the first ended. Until all is
    there, a file in the split's folder keeps loaders from taking it for the whole.

    Returns:
        How many files were written.

    Raises:
        InputError: where the disk is too small, files of another size are in the way that no earlier start can have
            left, two images have one name, another process writes there, or the source changed meanwhile.
        OSError: where source or target fail.
    """
    if workers < 1:
        raise InputError(f"workers {workers} is too small: take at least 1.")
    folder = out / scan.split

    def name_of(place: int) -> str:
        inside = f"{scan.classes[scan.labels[place]]}/"  # which a WebDataset's keys need not have
        return f"{inside}{scan.keys[place].removeprefix(inside)}.JPEG"

    def target(place: int) -> Path:
        return folder / name_of(place)

    def size(place: int) -> int:
        try:
            return target(place).stat().st_size
        except FileNotFoundError:
            return _MISSING

    def write(number: int) -> None:
        member, path = scan.member(places[number]), target(places[number])
        temporary = path.with_name(f".{path.name}.part")  # one name: a second start overwrites a torn one
        path.parent.mkdir(parents=True, exist_ok=True)  # folders within a class
        temporary.write_bytes(read_bytes(member))
        os.replace(temporary, path)

    _check_a_tree_can_hold(scan, folder)
    twice = [name for name, count in Counter(map(name_of, range(len(scan)))).items() if count > 1]
    if twice:
        raise InputError(f"{scan.root} has two images that would be {folder / twice[0]}: rename one.")
    found = in_threads(size, len(scan), workers, desc=f"looking into {folder}")
    places = [place for place, size in enumerate(found) if size != scan.length[place]]
    torn = [place for place in places if found[place] != _MISSING]
    if torn and _begun(folder) != scan.fingerprint:
        raise InputError(
            f"{len(torn):,} files are in the way with another size than in {scan.root}, the first "
            f"{target(torn[0])}: remove them, or choose another --out."
        )
    refuse_a_small_disk(out, int(scan.length[places].sum()), "free some, or choose another --out")
    if not places and not (folder / PREPARING).exists():
        return 0
    for name in scan.classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    with _take(folder, scan):
        in_threads(write, len(places), workers, desc=scan.split)
        os.sync()  # once for all, where a million files synced one by one would take hours on a disk that turns
        (folder / PREPARING).unlink()
    return len(places)


def _check_a_tree_can_hold(scan: Scan, folder: Path) -> None:
    if scan.subsets:
        raise InputError(f"{scan.root} has folds, which a tree would lose: use it as it is, or convert it.")
    empty = np.flatnonzero(np.bincount(scan.labels, minlength=len(scan.classes)) == 0)
    if scan.split == "train" and len(empty):
        raise InputError(
            f"{scan.root} has no images of class {scan.classes[empty[0]]} and {len(empty) - 1} others, without which a "
            "tree would number the rest anew: convert it to shards instead."
        )
    others = set(folders(folder)) - set(scan.classes)
    if others:
        raise InputError(
            f"{folder} holds {min(others)}, a class of another data set, and {len(others) - 1} more: "
            "choose another --out."
        )


def _take(folder: Path, scan: Scan) -> TextIO:
    """Marks the folder as begun, with the scan's fingerprint, and holds it.

    Raises:
        InputError: where another process holds it, or another source's preparation was begun there.
    """
    try:
        marker = take_lock(folder / PREPARING)
    except BlockingIOError as error:
        raise InputError(f"another process is preparing {folder}: wait for it, or end it first.") from error
    begun = _begun(folder)
    if begun and begun != scan.fingerprint:
        marker.close()
        raise InputError(
            f"{folder} holds the beginning of another data set: finish that one with its own --data_dir, or choose "
            "another --out."
        )
    if not begun:
        marker.write(scan.fingerprint)
        marker.flush()
        os.fsync(marker.fileno())
    return marker


def _begun(folder: Path) -> str:
    """The fingerprint of the scan that the folder was begun with; empty where it was not."""
    try:
        return (folder / PREPARING).read_text()
    except FileNotFoundError:
        return ""
