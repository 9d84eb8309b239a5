"""The plainest way to shards: Python's `tarfile` copies files as they are, a tar a process."""

from __future__ import annotations

import io
import multiprocessing
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path


def copy_to_tars(tree: Path, out: Path, workers: int) -> int:
    """Copies a folder of class folders, with labels, in one shuffled order that is shared out over the workers.

    Returns:
        How many images.
    """
    classes = sorted(folder.name for folder in tree.iterdir())
    files = [(str(path), label) for label, name in enumerate(classes) for path in sorted((tree / name).iterdir())]
    random.Random(0).shuffle(files)
    shares = [(files[worker::workers], out / f"copy-{worker}.tar") for worker in range(workers)]
    with multiprocessing.get_context("forkserver").Pool(workers) as pool:
        return sum(pool.starmap(_copy, shares))


def _copy(files: Sequence[tuple[str, int]], target: Path) -> int:
    with tarfile.open(target, "w") as tar:
        for number, (path, label) in enumerate(files):
            tar.add(path, f"{number}.jpg")
            info, text = tarfile.TarInfo(f"{number}.cls"), str(label).encode()
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return len(files)
