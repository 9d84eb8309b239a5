"""Tiny-ImageNet: `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt`."""

from __future__ import annotations

from pathlib import Path

from convert.scan import Scan
from convert.sources.listing import labels_of, scan_files
from loaders.errors import InputError
from loaders.folders import folders, images, lines

_WNIDS = "wnids.txt"
_ANNOTATIONS = "val/val_annotations.txt"


def recognise(path: Path) -> str | None:
    """The images/ folders of train and one of the files that only Tiny-ImageNet has."""
    classes = folders(path / "train")
    marks = [mark for mark in (_WNIDS, _ANNOTATIONS) if (path / mark).is_file()]
    if not marks or not classes or not (path / "train" / classes[0] / "images").is_dir():
        return None
    return f"train/ has {len(classes):,} class folders with images/ in them, beside {' and '.join(marks)}"


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """train and val where they are; the images of test/ have no labels."""
    return tuple(split for split in ("train", "val") if folders(path / split))


def scan(path: Path, split: str, _devkit: Path | None, why: str) -> Scan:
    """The images of one split; the classes are those of wnids.txt where it exists, else the folders of train/.

    Raises:
        InputError: where images, annotations and classes do not belong together.
    """
    wnids = path / _WNIDS
    classes = sorted(set(lines(wnids))) if wnids.is_file() else folders(path / "train")
    found = _train(path) if split == "train" else _val(path)
    return scan_files(
        kind="tiny",
        why=why,
        root=path,
        split=split,
        classes=classes,
        files=[file for file, _ in found],
        labels=labels_of((wnid for _, wnid in found), classes, str(path / split)),
        names=[file.rpartition("/")[2] for file, _ in found],
    )


def _train(path: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for wnid in folders(path / "train"):
        inside = f"train/{wnid}/images"
        names = images(path / inside)
        if not names:
            raise InputError(f"{path / inside} holds no images: fetch the class again or remove its folder.")
        found += [(f"{inside}/{name}", wnid) for name in names]
    return found


def _val(path: Path) -> list[tuple[str, str]]:
    annotations = path / _ANNOTATIONS
    if not annotations.is_file():
        raise InputError(
            f"{annotations} is missing, without which the validation images have no labels: restore it, or take "
            "--source tree if they are sorted into class folders."
        )
    wnids: dict[str, str] = {}
    for line in lines(annotations):
        name, tab, rest = line.partition("\t")
        if not tab or name in wnids:
            raise InputError(f"{annotations} has the line {line!r}, which names no new image and class: restore it.")
        wnids[name] = rest.partition("\t")[0].strip()
    names = images(path / "val" / "images")
    odd = sorted(wnids.keys() ^ set(names))
    if odd:
        raise InputError(
            f"{odd[0]} and {len(odd) - 1:,} others are only in {annotations} or only in val/images: "
            "fetch the data set again."
        )
    return [(f"val/images/{name}", wnids[name]) for name in names]
