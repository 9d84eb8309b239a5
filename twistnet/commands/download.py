"""`twistnet convert dtd`: a data set fetched where there is a network, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from convert import downloading


def dtd(*, out: Path, dataset: Literal["dtd", "flowers"] = "dtd", download: bool = False) -> int:
    """Checks the counts and archives of DTD or Flowers-102, and fetches what is not there with --download.

    torchvision's downloader fetches and extracts it. Where there is no network, archives that were put into the folder
    by hand are extracted.

    Args:
        out: the data set's folder, as data/dtd.
        dataset: dtd or flowers.
        download: fetch it where it is not there.
    """
    lines, whole = downloading.fetch(dataset, out, download=download)
    print("\n".join(lines))
    return 0 if whole else 1
