"""The whole suite after one another, over one data set, with one report; and the same at its smallest."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import rows
from bench.augment import augment
from bench.data import tree_of
from bench.decode import decode
from bench.gpu import gpu
from bench.loaders import SYSTEMS, loaders
from bench.options import check_positive
from bench.reading import read_rows
from bench.report import write_report
from bench.steps import SEPARATE, step
from bench.storage import storage
from bench.training import train
from bench.upload import upload
from loaders.cores import usable_cores

# Of the time that all take.
SHARES = {"storage": 0.03, "decode": 0.2, "augment": 0.06, "upload": 0.01, "loaders": 0.4, "step": 0.1, "train": 0.2}
MODELS = (SEPARATE, "twistnet18", "resnet18")


def everything(
    *,
    data_dir: Path | None = None,
    images: int = 1200,
    size: int = 224,
    batch_size: int = 32,
    workers: int | None = None,
    rounds: int = 5,
    seconds: float = 0.5,
) -> None:
    """Measures storage, decoding, augmentation, uploads, loaders beside their peers, steps and training, and reports.

    Where there is a CUDA card, also all that `bench gpu` checks and measures.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: to make, without --data_dir.
        size: side of the images in pixels.
        batch_size: images of a step; loaders take four times as many.
        workers: threads that load; the usable cores unless given.
        rounds: interleaved rounds.
        seconds: of one thing in one round, at least.
    """
    check_positive(images=images, size=size, batch_size=batch_size, workers=workers, rounds=rounds, seconds=seconds)
    with tree_of(data_dir, images) as (tree, _):
        run(tree, tuple(SYSTEMS), MODELS, size, batch_size, workers, rounds, seconds)
        if torch.cuda.is_available():
            gpu()
    for path in write_report(read_rows(rows.RUN), rows.RESULTS):
        print(f"Written: {path}")


def smoke() -> None:
    """Runs every part of the suite that needs no card at its smallest, and keeps none of it: does it work here?"""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, _results_in(Path(folder)), tree_of(None, 64) as (tree, _):
        run(tree, ("shards",), ("twistnet18", "test_resnet"), 32, 8, 1, rounds=1, seconds=0.01)
        written = write_report(read_rows(rows.RUN), Path(folder))
        assert all(path.stat().st_size for path in written)
    print(f"The suite works here ({time.perf_counter() - began:.0f} s); nothing of it was kept.")


def run(
    tree: Path,
    sets: tuple[str, ...],
    models: tuple[str, ...],
    size: int,
    batch_size: int,
    workers: int | None,
    rounds: int,
    seconds: float,
) -> None:
    """Runs the suite over a tree, every bench with the same options."""
    timed: dict[str, Any] = {"rounds": rounds, "seconds": seconds}
    loading = {**timed, "data_dir": tree, "workers": workers}
    parts: dict[str, Callable[[], None]] = {
        "storage": lambda: storage(**loading),
        "decode": lambda: decode(**loading, size=size, images=8 * batch_size, batch_size=2 * batch_size),
        "augment": lambda: augment(**timed, size=size, batch_size=2 * batch_size, workers=workers or usable_cores()),
        "upload": lambda: upload(**timed, size=size, batch_size=batch_size),
        "loaders": lambda: loaders(**loading, size=size, batch_size=4 * batch_size, sets=sets),
        "step": lambda: step(**timed, size=size, batch_sizes=(batch_size,), models=models),
        "train": lambda: train(**loading, size=size, batch_size=batch_size, model=models[-2]),
    }
    began, done = time.perf_counter(), 0.0
    for number, (name, part) in enumerate(parts.items(), 1):
        elapsed = time.perf_counter() - began
        left = f"{elapsed * (1 - done) / done / 60:.0f} min left" if done else "the longest takes half of the time"
        print(f"[{number} of {len(parts)}] {name}: {elapsed / 60:.0f} min so far, {left}", flush=True)
        part()
        done += SHARES[name]


@contextlib.contextmanager
def _results_in(folder: Path) -> Iterator[None]:
    before, rows.RESULTS = rows.RESULTS, folder
    try:
        yield
    finally:
        rows.RESULTS = before
