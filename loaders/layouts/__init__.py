"""The data sets that have folds, each as it is downloaded: one module knows a layout, for loading and converting alike.

    layout = find_layout(Path("data/dtd"))
    listing = layout.read(Path("data/dtd"))        # files, labels, and splits train1, val1, test1, train2, ...

A module has a `LAYOUT`, as `loaders.layouts.layout.Layout` says. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loaders.errors import InputError
from loaders.layouts import cub, dtd, flowers, fmd, folder, kth
from loaders.layouts.layout import Layout

LAYOUTS: Mapping[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in (dtd, fmd, kth, cub, flowers, folder)}


def find_layout(path: Path) -> Layout | None:
    """The layout that a folder has, by its content; one's own class folders only where it has no other.

    Raises:
        InputError: where it has more than one.
    """
    *others, own = LAYOUTS.values()
    found = [layout for layout in others if layout.recognise(path)]
    if len(found) > 1:
        titles = " and ".join(layout.title for layout in found)
        raise InputError(f"{path} holds {titles}: name the folder of one of them.")
    if found:
        return found[0]
    return own if own.recognise(path) else None
