"""ImageNet with a flat `val/`: `train/<wnid>/*.JPEG`, `val/*.JPEG`, and labels from the development kit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convert.scan import Scan
from convert.sources import tree
from convert.sources.devkit import find_devkit, require_devkit
from convert.sources.listing import labels_of, scan_files
from loaders.folders import folders, has_image, images

_VAL = ("val", "ILSVRC2012_img_val")  # the second is the archive's name


def recognise(path: Path) -> str | None:
    """Loose images in val/, beside class folders in train/ or the kit."""
    val = _val_folder(path)
    train = tree.has_class_folders(path / "train")
    kit = find_devkit(path)
    if val is None or not (train or kit):
        return None
    beside = " and ".join((["train/ has class folders"] if train else []) + ([f"{kit.name} is there"] if kit else []))
    return f"{val}/ holds images without class folders, {beside}"


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """train and val where they are."""
    train = ("train",) if tree.has_class_folders(path / "train") else ()
    return (*train, "val") if _val_folder(path) else train


def scan(path: Path, split: str, devkit: Path | None, why: str) -> Scan:
    """The images of one split; the classes are those of train/ where it exists, else the kit's.

    Raises:
        InputError: where the kit is missing, or does not belong to the images.
    """
    if split == "train":
        return tree.scan(path, split, devkit, why, kind="flat")
    folder = _val_folder(path) or _VAL[0]
    names = images(path / folder)
    kit = require_devkit(path, devkit)
    wnids = kit.classes_of(names, str(path / folder))
    return scan_val("flat", why, path, folder, names, wnids, folders(path / "train") or kit.classes)


def scan_val(
    kind: str, why: str, root: Path, folder: str, names: Sequence[str], wnids: Sequence[str], classes: Sequence[str]
) -> Scan:
    """A scan of flat validation images whose classes are known.

    Args:
        folder: of the images, below `root`.
        names: (N,) of their files.
        wnids: (N,) their classes.
        classes: sorted names of all classes.
    """
    return scan_files(
        kind=kind,
        why=why,
        root=root,
        split="val",
        classes=classes,
        files=[f"{folder}/{name}" for name in names],
        labels=labels_of(wnids, classes, str(root / folder)),
        names=names,
    )


def _val_folder(path: Path) -> str | None:
    return next((name for name in _VAL if has_image(path / name)), None)
