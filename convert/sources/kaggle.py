"""Kaggle's ImageNet: `ILSVRC/Data/CLS-LOC/{train/<wnid>,val}`, and labels from `LOC_val_solution.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

from convert.scan import Scan
from convert.sources import tree
from convert.sources.flat import scan_val
from loaders.errors import InputError
from loaders.folders import folders, has_image, images

_CSV = "LOC_val_solution.csv"
_COLUMNS = ("ImageId", "PredictionString")


def recognise(path: Path) -> str | None:
    """Kaggle's folders, right here or in ILSVRC/."""
    found = _data(path)
    return f"{found.relative_to(path)} holds {' and '.join(splits(path, None))}" if found else None


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """train and val where they are; the images of test/ have no labels."""
    found = _data(path)
    if found is None:
        return ()
    train = ("train",) if tree.has_class_folders(found / "train") else ()
    return (*train, "val") if has_image(found / "val") else train


def scan(path: Path, split: str, devkit: Path | None, why: str) -> Scan:
    """The images of one split; the classes are those of train/ where it exists, else those that the solution names.

    Raises:
        InputError: where the solution is missing, or does not belong to the images.
    """
    found = _data(path) or path
    if split == "train":
        return tree.scan(found, split, devkit, why, kind="kaggle")
    solution = _solution(path)
    names = images(found / "val")
    by_stem = {name.rpartition(".")[0]: name for name in names}
    odd = sorted(by_stem.keys() ^ solution.keys())
    if odd:
        raise InputError(
            f"{odd[0]} and {len(odd) - 1:,} others are only in {_CSV} or only in {found / 'val'}: "
            "fetch what is missing, or remove what is stray."
        )
    wnids = [solution[name.rpartition(".")[0]] for name in names]
    classes = folders(found / "train") or sorted(set(wnids))
    return scan_val("kaggle", why, found, "val", names, wnids, classes)


def _data(path: Path) -> Path | None:
    for found in (path / "ILSVRC" / "Data" / "CLS-LOC", path / "Data" / "CLS-LOC"):
        if tree.has_class_folders(found / "train") or has_image(found / "val"):
            return found
    return None


def _solution(path: Path) -> dict[str, str]:
    """Image id -> WordNet id."""
    # Kaggle puts the file beside ILSVRC, which may be the folder that was named.
    beside = path if (path / "ILSVRC").is_dir() else path.absolute().parent
    file = next((folder / _CSV for folder in (path, beside) if (folder / _CSV).is_file()), None)
    if file is None:
        raise InputError(
            f"{path} has no {_CSV} in it or beside it, without which the validation images have no labels: "
            "take it from Kaggle's archive."
        )
    found: dict[str, str] = {}
    try:
        with file.open(encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{file} has no column {' and '.join(missing)}: take it from Kaggle's archive again.")
            for row in reader:
                image, words = row["ImageId"], (row["PredictionString"] or "").split()
                if not words or image in found:
                    raise InputError(
                        f"{file} has no class for {image!r}, or two, at line {reader.line_num}: fetch it again."
                    )
                found[image] = words[0]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}): take it from Kaggle's archive again.") from error
    return found
