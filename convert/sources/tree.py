"""The extracted tree: `<split>/<class>/**/<image>`, as ImageNet, Imagenette, ImageNet-100 and one's own sets have."""

from __future__ import annotations

import os
from pathlib import Path

from convert.scan import Scan
from convert.sources import tiny
from convert.sources.listing import SPLITS, in_order, scan_files
from loaders.errors import InputError
from loaders.folders import folders, has_image
from loaders.layouts import LAYOUTS, find_layout
from loaders.tree import open_tree


def recognise(path: Path) -> str | None:
    """Class folders in folders that are named as splits, none of which has loose images alone."""
    if tiny.recognise(path):
        return None
    found = [split for split in splits(path, None) if split in SPLITS]
    if not found or any(split not in found and has_image(path / split) for split in SPLITS):
        return None
    return " and ".join(f"{split}/ has {len(folders(path / split)):,} class folders" for split in found)


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """Every folder that has an image in a class folder, whatever its name."""
    return in_order(split for split in folders(path) if has_class_folders(path / split))


def has_class_folders(path: Path) -> bool:
    """Whether the folder has folders with an image in one of them."""
    return any(has_image(path / name, below=True) for name in folders(path))


def scan(path: Path, split: str, _devkit: Path | None, why: str, kind: str = "tree") -> Scan:
    """The images below the class folders; the classes are those of train/ where it exists.

    Raises:
        InputError: where the split also has loose images, or is not whole.
    """
    layout = find_layout(path)
    if layout and layout is not LAYOUTS["folder"]:
        raise InputError(f"{path} is {layout.title}: take --source {layout.name}.")
    if has_image(path / split):
        raise InputError(f"{path / split} holds images beside its class folders: sort them into those, or remove them.")
    store = open_tree(path, split)
    start = len(os.path.join(path / split, ""))
    inside = [store.key(place)[start:] for place in range(len(store))]
    return scan_files(
        kind=kind,
        why=why,
        root=path,
        split=split,
        classes=store.classes,
        files=[f"{split}/{name}" for name in inside],
        labels=store.labels.tolist(),
        names=[name.partition("/")[2] for name in inside],
    )
