"""The guide's second step: the official archives to a tree of folders, and a count of what is there."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from convert.scan import Scan
from convert.shard import read_bytes
from convert.threads import in_threads
from loaders.errors import InputError

EXPECTED = {"train": 1_281_167, "val": 50_000}  # of ILSVRC2012, in 1,000 classes
NUM_CLASSES = 1000
PER_CLASS = {"train": (732, 1300), "val": (50, 50)}  # fewest and most images
MD5 = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a split holds.

    Attributes:
        split: its name.
        classes: how many classes it has images of.
        images: how many images.
        fewest: of a class.
        most: of a class.
        empty: classes without any.
    """

    split: str
    classes: int
    images: int
    fewest: int
    most: int
    empty: tuple[str, ...]

    @property
    def is_imagenet(self) -> bool | None:
        """Whether these are ILSVRC2012's numbers, by class too; None for a split that it does not have."""
        if self.split not in EXPECTED:
            return None
        expected = (EXPECTED[self.split], NUM_CLASSES, *PER_CLASS[self.split])
        return (self.images, self.classes, self.fewest, self.most) == expected


def prepare(scan: Scan, out: Path, workers: int) -> int:
    """Writes every image of a scan as <out>/<split>/<class>/<stem>.JPEG, its bytes untouched.

    What is there already with the right size is left, so a second start goes on where the first ended.

    Returns:
        How many files were written.

    Raises:
        InputError: where the source changed meanwhile, or a file of another size is in the way.
    """
    if workers < 1:
        raise InputError(f"workers {workers} is too small: take at least 1.")
    for name in scan.classes:
        (out / scan.split / name).mkdir(parents=True, exist_ok=True)

    def write(place: int) -> int:
        member = scan.member(place)
        folder = f"{scan.classes[member.label]}/"  # which a WebDataset's keys need not have
        path = out / scan.split / folder / f"{member.key.removeprefix(folder)}.JPEG"
        try:
            if path.stat().st_size == member.length:
                return 0
            raise InputError(f"{path} is in the way with another size than {member.length} bytes: remove it.")
        except FileNotFoundError:
            pass
        temporary = path.with_name(f".{path.name}.part")  # one name: a second start overwrites a torn one
        path.parent.mkdir(parents=True, exist_ok=True)  # folders within a class
        temporary.write_bytes(read_bytes(member))
        os.replace(temporary, path)
        return 1

    return sum(in_threads(write, len(scan), workers, desc=scan.split))


def count(scan: Scan) -> Count:
    """Counts a split's images by class."""
    per_class = np.bincount(scan.labels, minlength=len(scan.classes))
    return Count(
        split=scan.split,
        classes=int((per_class > 0).sum()),
        images=len(scan),
        fewest=int(per_class.min(initial=len(scan))),
        most=int(per_class.max(initial=0)),
        empty=tuple(name for name, found in zip(scan.classes, per_class, strict=True) if not found),
    )


def check_md5(folder: Path) -> list[str]:
    """Checks the official archives that are in a folder, a line each.

    Raises:
        InputError: for the first whose MD5 is another, or where there is none.
    """
    found = [folder / name for name in MD5 if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} holds none of {', '.join(MD5)}: name the folder of the archives.")
    lines = []
    for path in found:
        digest = hashlib.md5(usedforsecurity=False)
        with (
            path.open("rb") as file,
            tqdm(
                total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=not sys.stderr.isatty()
            ) as bar,
        ):
            while block := file.read(1 << 22):
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != MD5[path.name]:
            raise InputError(
                f"{path} has the MD5 {digest.hexdigest()} where {MD5[path.name]} is official: download it again."
            )
        lines.append(f"{path.name}: MD5 as published")
    return lines
