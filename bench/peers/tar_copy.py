"""The plainest way to shards: Python's `tarfile` copies files as they are, a tar a process."""

from __future__ import annotations

import io
import multiprocessing
import tarfile
from collections.abc import Sequence
from pathlib import Path


def copy_to_tars(files: Sequence[tuple[str, int]], out: Path, workers: int) -> int:
    """Copies (path, label) files and their labels, shared out over the workers in one shuffled order.

    Returns:
        How many files.
    """
    context = multiprocessing.get_context("spawn")
    shares = [(files[worker::workers], out / f"copy-{worker}.tar") for worker in range(workers)]
    with context.Pool(workers) as pool:
        return sum(pool.starmap(_copy, shares))


def _copy(files: Sequence[tuple[str, int]], target: Path) -> int:
    with tarfile.open(target, "w") as tar:
        for number, (path, label) in enumerate(files):
            tar.add(path, f"{number}.jpg")
            info, text = tarfile.TarInfo(f"{number}.cls"), str(label).encode()
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return len(files)
