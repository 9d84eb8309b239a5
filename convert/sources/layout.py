"""The data sets with folds, as `loaders.layouts` lists them: one split of all images, whose subsets are the folds."""

from __future__ import annotations

from pathlib import Path

from convert.scan import Scan
from convert.sources.listing import scan_files
from loaders.folders import folders
from loaders.layouts import LAYOUTS
from loaders.layouts.layout import Layout


class LayoutForm:
    """One of the layouts as a form that data sets come in.

    Args:
        layout: which.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def recognise(self, path: Path) -> str | None:
        """What the layout recognises."""
        return self._layout.recognise(path)

    def splits(self, path: Path, _devkit: Path | None) -> tuple[str, ...]:
        """One, of all images; class folders that may be something else are read where that is forced."""
        own = self._layout is LAYOUTS["folder"] and bool(folders(path))
        return ("all",) if own or self._layout.recognise(path) else ()

    def scan(self, path: Path, split: str, _devkit: Path | None, why: str) -> Scan:
        """All images, with a subset for every split of every fold: "train1", "val1", "test1", "train2", ...

        Raises:
            InputError: where the set is not whole.
        """
        listing = self._layout.read(path)
        return scan_files(
            kind=self._layout.name,
            why=why,
            root=listing.root,
            split=split,
            classes=listing.classes,
            files=listing.files,
            labels=listing.labels.tolist(),
            names=listing.names,
            subsets=listing.splits,
        )
