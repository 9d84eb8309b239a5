"""The forms that data sets come in, each recognised by what is there and listed without reading an image.

    scan = find_source(Path("data/imagenet"), "train")

A form is a module with `recognise`, `splits` and `scan`, as `convert.sources.listing.Form` says; the data sets with
folds are those of `loaders.layouts`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from convert.scan import Scan
from convert.sources import archives, flat, kaggle, tiny, tree, webdataset
from convert.sources.layout import LayoutForm
from convert.sources.listing import Form
from loaders.errors import InputError
from loaders.layouts import LAYOUTS

_FORMS: Mapping[str, Form] = {
    "tree": tree,
    "archives": archives,
    "kaggle": kaggle,
    "flat": flat,
    "tiny": tiny,
    "webdataset": webdataset,
    **{name: LayoutForm(layout) for name, layout in LAYOUTS.items()},
}
KINDS = tuple(_FORMS)
_OWN = "folder"  # class folders, which many other forms have too


def recognise(path: Path) -> list[tuple[str, str]]:
    """Every form that the folder has: (kind, a sentence that says what was found there).

    One's own class folders are a form only where there is no other.

    Raises:
        InputError: where there is no such folder, or a folder in it cannot be read.
    """
    _check_folder(path)
    try:
        found = [(kind, form.recognise(path)) for kind, form in _FORMS.items() if kind != _OWN]
        if not any(why for _, why in found):
            found = [(_OWN, _FORMS[_OWN].recognise(path))]
    except OSError as error:
        raise _unreadable(path, error) from error
    return [(kind, why) for kind, why in found if why]


def splits_of(path: Path, kind: str = "auto", devkit: Path | None = None) -> tuple[str, ...]:
    """The splits of a data set, "train" first.

    Args:
        path: the data set's folder.
        kind: "auto" or one of KINDS.
        devkit: the development kit, where it lies elsewhere.

    Raises:
        InputError: as `find_source`.
    """
    kind, _ = _decide(path, kind)
    return _splits(path, kind, devkit)


def find_source(
    path: Path,
    split: str,
    kind: str = "auto",
    devkit: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Scan:
    """Lists the samples of one split, in whatever form the data set is.

    The same ImageNet images have the same keys, labels, order and fingerprint as archives, tree, Kaggle's or flat.

    Args:
        path: the data set's folder.
        split: one of `splits_of`; for data sets with folds "all".
        kind: "auto" recognises the form; one of KINDS forces it.
        devkit: ILSVRC2012's development kit (.tar.gz or folder), where it is not in `path`.
        report: is given a sentence that says what was found and why.

    Raises:
        InputError: where no form or more than one is recognised, the split does not exist, or it is not whole.
    """
    kind, why = _decide(path, kind)
    if report:
        report(f"{path} is read as {kind}: {why}.")
    splits = _splits(path, kind, devkit)
    if split not in splits:
        raise InputError(f"{path}, read as {kind}, has no split {split!r}: choose {' or '.join(splits)}.")
    try:
        return _FORMS[kind].scan(path, split, devkit, why)
    except OSError as error:
        raise _unreadable(path, error) from error


def _splits(path: Path, kind: str, devkit: Path | None) -> tuple[str, ...]:
    try:
        found = _FORMS[kind].splits(path, devkit)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not found:
        raise InputError(f"{path} has no split that can be read as {kind}: force another form with --source.")
    return found


def _decide(path: Path, kind: str) -> tuple[str, str]:
    if kind != "auto":
        if kind not in _FORMS:
            raise InputError(f"source {kind!r} is unknown: choose auto, {', '.join(KINDS)}.")
        _check_folder(path)
        try:
            return kind, _FORMS[kind].recognise(path) or "it was forced"
        except OSError as error:
            raise _unreadable(path, error) from error
    _check_extracted(path)
    found = recognise(path)
    if len(found) == 1:
        return found[0]
    if found:
        several = "; and as ".join(f"{name}, since {why}" for name, why in found)
        raise InputError(
            f"{path} can be read as {several}: choose with --source {' or '.join(name for name, _ in found)}."
        )
    holds = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise InputError(
        f"{path} holds {holds}, which is no data set in a known form: name the folder with train/ and val/ or with the "
        f"archives, or force a form with --source {', '.join(KINDS)}."
    )


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        hint = f"name the folder that holds it, {path.parent}" if path.exists() else "name the data set's folder"
        raise InputError(f"{path} is no folder: {hint}.")


def _check_extracted(path: Path) -> None:
    """Raises InputError where the training archive was extracted and the archives in it were not."""
    inner = sorted(path.glob(f"train/n{'[0-9]' * 8}.tar")) if (path / "train").is_dir() else []
    if inner:
        raise InputError(
            f"{inner[0].parent} holds {len(inner):,} archives as {inner[0].name}, whose images are not extracted: "
            "extract each into a folder of its name, or name the folder of ILSVRC2012_img_train.tar."
        )


def _unreadable(path: Path, error: OSError) -> InputError:
    place = path if error.filename is None else os.fsdecode(error.filename)
    return InputError(f"{place} cannot be read ({error.strerror or error}): check that it is there and readable.")
