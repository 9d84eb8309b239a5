"""ImageNet's archives as downloaded, read where they lie: nothing is extracted.

ILSVRC2012_img_train.tar        a <wnid>.tar a class, with its images
ILSVRC2012_img_val.tar          the images, flat
ILSVRC2012_devkit_t12.tar.gz    which class each validation image has
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from convert.progress import Progress
from convert.scan import Scan
from convert.sources.devkit import require_devkit
from convert.sources.listing import Row, labels_of, make_scan
from convert.tar_members import Member, tar_members
from loaders.errors import InputError
from loaders.folders import is_image

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"


def recognise(path: Path) -> str | None:
    """One of the archives, holding what it should."""
    found = [name for name, holds in ((TRAIN, _is_class), (VAL, _is_image)) if _begins_with(path / name, holds)]
    return f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} there" if found else None


def splits(path: Path, _devkit: Path | None) -> tuple[str, ...]:
    """train and val where their archives are."""
    return tuple(split for split, name in (("train", TRAIN), ("val", VAL)) if (path / name).is_file())


def scan(path: Path, split: str, devkit: Path | None, why: str) -> Scan:
    """The images of one archive; the classes are those of the training archive where it is, else the kit's.

    Raises:
        InputError: where an archive is torn or not what its name says, or the kit does not belong to it.
    """
    if split == "train":
        inner = _class_tars(path / TRAIN)
        classes, rows, file = list(inner), list(_train(path / TRAIN, inner)), TRAIN
    else:
        kit = require_devkit(path, devkit)
        classes = list(_class_tars(path / TRAIN)) if (path / TRAIN).is_file() else list(kit.classes)
        # The ground truth is in the order of the names.
        members = sorted(member for member in tar_members(path / VAL) if is_image(member.name))
        wnids = kit.classes_of([member.name for member in members], str(path / VAL))
        labels = labels_of(wnids, classes, str(path / VAL))
        rows, file = [_row(label, member) for label, member in zip(labels, members, strict=True)], VAL
    return make_scan(kind="archives", why=why, root=path, split=split, classes=classes, files=[file], rows=rows)


def _row(label: int, member: Member) -> Row:
    return Row(label, member.name, 0, member.offset, member.length)


def _class_tars(path: Path) -> dict[str, Member]:
    """WordNet id -> the tar of that class, sorted."""
    found = {member.name.removesuffix(".tar"): member for member in tar_members(path) if _is_class(member.name)}
    if not found:
        raise InputError(f"{path} holds no <wnid>.tar, as ImageNet's training archive does: download it again.")
    return dict(sorted(found.items()))


def _train(path: Path, inner: dict[str, Member]) -> Iterator[Row]:
    with Progress(len(inner), unit="class", desc=f"listing {path.name}") as progress:
        for label, tar in enumerate(inner.values()):
            rows = [_row(label, member) for member in tar_members(path, tar) if is_image(member.name)]
            if not rows:
                raise InputError(f"{path}:{tar.name} holds no images: download the archive again.")
            yield from rows
            progress.update(1)


def _is_class(name: str) -> bool:
    return name.endswith(".tar") and "/" not in name and not name.startswith(".")


def _is_image(name: str) -> bool:
    return is_image(name) and "/" not in name


def _begins_with(path: Path, holds: Callable[[str], bool]) -> bool:
    """Whether the tar's first member is as it should be. A torn one counts, so that its scan says what is wrong."""
    if not path.is_file():
        return False
    try:
        return all(holds(member.name) for member in itertools.islice(tar_members(path), 1))
    except InputError:
        return True
