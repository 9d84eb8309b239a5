"""How many images a source holds, by class and split, beside the numbers published; and the archives' checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.progress import Progress
from convert.scan import Scan
from loaders.errors import InputError
from loaders.layouts import LAYOUTS
from loaders.layouts.layout import SPLITS, split_fold

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
        subsets: images of every split of every fold, by name; {} where there are no folds.
    """

    split: str
    source: str
    classes: int
    images: int
    fewest: int
    most: int
    empty: tuple[str, ...]
    subsets: Mapping[str, int]

    @property
    def of(self) -> str:
        """The published data set that these numbers are held to."""
        return LAYOUTS[self.source].title if self.source in LAYOUTS else "ImageNet"

    @property
    def is_published(self) -> bool | None:
        """Whether these are its numbers, by class and split too; None for what does not claim to be published."""
        if self.source in LAYOUTS:
            return None if LAYOUTS[self.source].facts is None else not self.deviations()
        claims = self.source in ("archives", "kaggle", "flat") or self.classes + len(self.empty) >= _NEARLY
        if self.split not in EXPECTED or not claims:
            return None
        expected = (EXPECTED[self.split], NUM_CLASSES, *PER_CLASS[self.split])
        return (self.images, self.classes, self.fewest, self.most) == expected

    def deviations(self) -> list[str]:
        """What is not as in the published data set with folds, a phrase each."""
        layout = LAYOUTS[self.source]
        facts = layout.facts
        if facts is None:
            return []
        numbers = {
            "classes": (self.classes, facts.classes),
            "images": (self.images, facts.images),
            "images in the smallest class": (self.fewest, facts.per_class[0]),
            "images in the largest class": (self.most, facts.per_class[1]),
            "folds": (len({split_fold(name) for name in self.subsets if name.startswith("test")}), layout.folds),
        }
        found = [f"{held:,} {what} instead of {due:,}" for what, (held, due) in numbers.items() if held != due]
        for name, held in self.subsets.items():
            kind, _ = split_fold(name) or ("", 0)
            if held != facts.splits.get(kind, held):
                found.append(f"{held:,} images of {name} instead of {facts.splits[kind]:,}")
        return found


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
        subsets={name: len(places) for name, places in scan.subsets.items()},
    )


def describe(found: Count) -> list[str]:
    """Lines for people: the numbers, whether they are those published, and the splits of folds."""
    verdict = {None: "", True: f", {found.of}'s number", False: f", not {found.of}'s"}[found.is_published]
    lines = [
        f"{found.split}: {found.images:,} images of {found.classes:,} classes, {found.fewest:,} to {found.most:,} a "
        f"class{verdict}"
    ]
    if found.empty:
        lines.append(f"  no images of {', '.join(found.empty[:5])}{' and others' if len(found.empty) > 5 else ''}")
    for kind in SPLITS:
        sizes = [size for name, size in found.subsets.items() if name.startswith(kind)]
        if sizes:
            names = f"{kind}1" if len(sizes) == 1 else f"{kind}1 to {kind}{len(sizes)}"
            lines.append(f"  {names}: {_range(sizes)} images")
    if found.is_published is False and found.source in LAYOUTS:
        phrases = found.deviations()
        more = f", and {len(phrases) - 4} more" if len(phrases) > 4 else ""
        lines.append(f"  {'; '.join(phrases[:4])}{more}")
    return lines


def _range(sizes: list[int]) -> str:
    return f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"


def archives_of(scan: Scan) -> tuple[Mapping[str, str], list[Path]]:
    """The MD5s of the archives that a source came in, by file name, and the folders where those may lie.

    Raises:
        InputError: where none is known.
    """
    if scan.kind not in LAYOUTS:
        return MD5, [scan.root]
    facts, title = LAYOUTS[scan.kind].facts, LAYOUTS[scan.kind].title
    if facts is None or not facts.md5:
        raise InputError(f"no MD5 of the archives of {title} is known: leave out --md5.")
    return facts.md5, [scan.root, scan.root.parent]


def check_md5(folders: Iterable[Path], md5: Mapping[str, str]) -> list[str]:
    """Checks the official archives that are in some folders, a line each.

    Args:
        md5: file name -> MD5 as published.

    Raises:
        InputError: where the MD5 of one is another, or there is none.
    """
    places = list(dict.fromkeys(folders))
    known = {name: next((place / name for place in places if (place / name).is_file()), None) for name in md5}
    found = [path for path in known.values() if path]
    if not found:
        raise InputError(f"{places[0]} holds none of {', '.join(md5)}: name the folder of the archives.")
    lines, wrong = [], []
    for path in found:
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file, Progress(path.stat().st_size, unit="B", desc=path.name) as progress:
            while block := file.read(1 << 22):
                digest.update(block)
                progress.update(len(block))
        if digest.hexdigest() != md5[path.name]:
            wrong.append(path.name)
            lines.append(f"{path.name}: MD5 {digest.hexdigest()}, where {md5[path.name]} is published")
        else:
            lines.append(f"{path.name}: MD5 as published")
    if wrong:
        raise InputError(f"{'; '.join(lines)}: download {' and '.join(wrong)} again.")
    return lines
