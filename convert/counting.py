"""How many images a source holds, by class, beside ImageNet's numbers; and the archives' checksums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.progress import Progress
from convert.scan import Scan
from loaders.errors import InputError

EXPECTED = {"train": 1_281_167, "val": 50_000}  # of ILSVRC2012, in 1,000 classes
NUM_CLASSES = 1000
_NEARLY = 900  # classes, from which on a tree is taken for ImageNet's, of which some may be missing
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
        source: what the data set was recognised as.
        classes: how many classes it has images of.
        images: how many images.
        fewest: of a class.
        most: of a class.
        empty: classes without any.
    """

    split: str
    source: str
    classes: int
    images: int
    fewest: int
    most: int
    empty: tuple[str, ...]

    @property
    def is_imagenet(self) -> bool | None:
        """Whether these are ILSVRC2012's numbers, by class too; None for what does not claim to be ILSVRC2012."""
        claims = self.source in ("archives", "kaggle", "flat") or self.classes + len(self.empty) >= _NEARLY
        if self.split not in EXPECTED or not claims:
            return None
        expected = (EXPECTED[self.split], NUM_CLASSES, *PER_CLASS[self.split])
        return (self.images, self.classes, self.fewest, self.most) == expected


def count(scan: Scan) -> Count:
    """Counts a split's images by class."""
    per_class = np.bincount(scan.labels, minlength=len(scan.classes))
    return Count(
        split=scan.split,
        source=scan.kind,
        classes=int((per_class > 0).sum()),
        images=len(scan),
        fewest=int(per_class.min(initial=len(scan))),
        most=int(per_class.max(initial=0)),
        empty=tuple(name for name, found in zip(scan.classes, per_class, strict=True) if not found),
    )


def check_md5(folder: Path) -> list[str]:
    """Checks the official archives that are in a folder, a line each.

    Raises:
        InputError: where the MD5 of one is another, or there is none.
    """
    found = [folder / name for name in MD5 if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} holds none of {', '.join(MD5)}: name the folder of the archives.")
    lines, wrong = [], []
    for path in found:
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file, Progress(path.stat().st_size, unit="B", desc=path.name) as progress:
            while block := file.read(1 << 22):
                digest.update(block)
                progress.update(len(block))
        if digest.hexdigest() != MD5[path.name]:
            wrong.append(path.name)
            lines.append(f"{path.name}: MD5 {digest.hexdigest()}, where {MD5[path.name]} is published")
        else:
            lines.append(f"{path.name}: MD5 as published")
    if wrong:
        raise InputError(f"{'; '.join(lines)}: download {' and '.join(wrong)} again.")
    return lines
