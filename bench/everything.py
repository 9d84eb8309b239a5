"""The whole suite after one another, over one data set, with one report; and the same at its smallest."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench import rows
from bench.data import tree_of
from bench.options import check_positive
from bench.reading import read_rows
from bench.report import write_report
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from bench.steps import SEPARATE
from loaders import InputError
from loaders.cores import usable_cores
from twistnet import environment
from twistnet.weights import REPOSITORY

# Of the time that all take, as on two cores.
SHARES = {
    "storage": 0.02,
    "decode": 0.16,
    "augment": 0.08,
    "upload": 0.01,
    "loaders": 0.35,
    "step": 0.13,
    "train": 0.25,
}
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

    Where there is a CUDA card, also all that `bench gpu` checks and measures. What is not installed is left out, and
    named. In the end bench/results/all.csv gets a row with the seconds that all of it took.

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
    for name in ("all", *SHARES):
        check_results(name)
    began, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = usable_cores() if workers is None else workers
    with tree_of(data_dir, images) as (tree, _):
        options = _options(tree, (), MODELS, size, batch_size, count, rounds, seconds)
        options |= {"gpu": {}} if device.type == "cuda" else {}
        drawn = _can_draw()
        run(options, rows.RESULTS)
        chosen = {"data": tree.name, "size": size, "batch": batch_size, "workers": count, "rounds": rounds}
    for path in write_report(read_rows(rows.RUN), rows.RESULTS) if drawn else []:
        print(f"Written: {path}")
    about, took = environment.describe(device), round(time.perf_counter() - began, 1)
    row = {"what": "all", "seconds": took, "benches": len(options)}
    row = columns_before(about) | row | columns_after(about, chosen | {"seconds": seconds})
    print(f"All of it took {took / 60:.1f} min. {added(append_rows('all', [row]))}")


def smoke() -> None:
    """Runs every part of the suite that needs no card at its smallest, and keeps none of it: does it work here?"""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tree_of(None, 64) as (tree, _):
        results = Path(folder) / "results"
        run(_options(tree, ("shards",), ("twistnet18", "test_resnet"), 32, 8, 1, 1, 0.01), results)
        found = [row for file in sorted(results.glob("*.csv")) for row in read_rows(str(file))]
        empty = [path.name for path in write_report(found, results) if not path.stat().st_size] if _can_draw() else []
        if empty:
            raise InputError(f"the report's {empty[0]} is empty: the suite does not work here.")
    print(f"The suite works here ({time.perf_counter() - began:.0f} s); nothing of it was kept.")


def _can_draw() -> bool:
    """Whether there will be a report; says so where there will be none."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        print(f"Left out: the report, whose pictures need matplotlib ({error}): pip install 'twistnet[plots]'.")
        return False
    return True


def _options(
    tree: Path,
    sets: tuple[str, ...],
    models: tuple[str, ...],
    size: int,
    batch_size: int,
    workers: int,
    rounds: int,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Of every bench, by its name; without `sets` all that can be made here."""
    timed = {"rounds": rounds, "seconds": seconds}
    loading = {**timed, "data_dir": tree.resolve(), "workers": workers}
    return {
        "storage": loading,
        "decode": {**loading, "size": size, "images": 8 * batch_size, "batch_size": 2 * batch_size},
        "augment": {**timed, "size": size, "batch_size": 2 * batch_size, "workers": workers},
        "upload": {**timed, "size": size, "batch_size": batch_size},
        "loaders": {
            **loading,
            "size": size,
            "batch_size": 4 * batch_size,
            **({"sets": ",".join(sets)} if sets else {}),
        },
        "step": {**timed, "size": size, "batch_sizes": batch_size, "models": ",".join(models)},
        "train": {**loading, "size": size, "batch_size": batch_size, "model": models[-2]},
    }


def run(options: Mapping[str, Mapping[str, Any]], results: Path) -> None:
    """Runs benches one after another, each in a process of its own: what one sets, as torch's threads, is its own.

    Args:
        options: of each, by its name.
        results: the folder of its rows.

    Raises:
        InputError: where one fails.
    """
    env = {**os.environ, "TWISTNET_BENCH_RUN": rows.RUN, "TWISTNET_BENCH_RESULTS": str(results)}
    began, done = time.perf_counter(), 0.0
    for number, (name, flags) in enumerate(options.items(), 1):
        elapsed = time.perf_counter() - began
        left = f"{elapsed * (1 - done) / done / 60:.0f} min left" if done else "the loaders take half of the time"
        print(f"[{number} of {len(options)}] {name}: {elapsed / 60:.0f} min so far, {left}", flush=True)
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        code = subprocess.run(
            [sys.executable, "-m", "bench", name, *words], env=env, cwd=REPOSITORY, check=False
        ).returncode
        if code:
            raise InputError(f"bench {name} ended with code {code}: see what it said; the rows before it are kept.")
        done = min(1.0, done + SHARES.get(name, 0.0))
