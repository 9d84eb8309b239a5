"""The data sets to fine-tune on, by the names that --dataset takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from loaders import InputError
from loaders.layouts import LAYOUTS, find_layout
from loaders.manifest import is_converted, read_manifest

Dataset: TypeAlias = Literal["dtd", "fmd", "kth", "cub", "flowers", "folder"]


def check_fold(dataset: str, fold: int, flag: str) -> None:
    """Raises InputError where the data set has no such fold, from 1."""
    folds = LAYOUTS[dataset].folds
    if not 1 <= fold <= folds:
        limit = f"take 1 to {folds}" if folds > 1 else "it has one, take 1"
        raise InputError(f"{flag} {fold} is none of {dataset}'s: {limit}.")


def check_dataset(dataset: str, data_dir: str | Path) -> None:
    """Raises InputError where a folder holds another data set than the one that it is said to be.

    What is no folder, or cannot be told, is left to those who open it.

    Args:
        dataset: as --dataset names it.
        data_dir: as downloaded, converted, or a URL.
    """
    if isinstance(data_dir, str) or not data_dir.is_dir():
        return
    if is_converted(data_dir):
        entry = read_manifest(data_dir).values["splits"].get("all", {})
        found = entry.get("source") if isinstance(entry, dict) else None
    else:
        layout = find_layout(data_dir)
        if layout is None and dataset != "folder":
            LAYOUTS[dataset].read(data_dir)  # which says what is missing
        found = layout.name if layout else None
    if found is not None and found in LAYOUTS and found != dataset:
        raise InputError(f"{data_dir} holds {LAYOUTS[found].title}: pass --dataset {found} instead of {dataset}.")
