"""`python -m bench conversion`: how fast a tree becomes shards, beside a plain copy and beside FFCV's writer."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from bench.data import QUALITY, tree_of
from bench.options import check_positive
from bench.peers.ffcv_writer import write_with_ffcv
from bench.peers.tar_copy import copy_to_tars
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from convert.beton import require_ffcv
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy
from convert.sources import find_source
from loaders import InputError
from loaders.cores import usable_cores

MAX_SIDE = 400
CPU = torch.device("cpu")


def conversion(
    *,
    data_dir: Path | None = None,
    images: int = 2000,
    links: int = 16,
    rounds: int = 3,
    workers: int | None = None,
) -> None:
    """Measures conversion and adds rows to bench/results/conversion.csv.

    Each round converts the whole set once in every way; start of processes, index and checksums included.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: to make, without --data_dir.
        links: names that each image has, at least 4, so that a round takes a while; a quarter where it is encoded anew.
        rounds: interleaved rounds.
        workers: processes; the usable cores unless given.
    """
    check_positive(images=images, rounds=rounds, workers=workers)
    if links < 4:
        raise InputError(f"--links {links} is too small: take at least 4.")
    check_results("conversion")
    require_ffcv()
    workers = usable_cores() if workers is None else workers
    with tree_of(data_dir, images) as (tree, root):
        # This first: it decides what the server imports that all further processes are copies of.
        encoded = encode_rates(link(tree, root / "some", links // 4), root / "encode", rounds, workers)
        copied = copy_rates(link(tree, root / "linked", links), root / "copy", rounds, workers)
    for policy, rates in (("original", copied), (f"max_side={MAX_SIDE}", encoded)):
        options = {"images": policy, "data": tree.name, "workers": workers, "quality": QUALITY}
        path = append_rates("conversion", rates, options, CPU)
        for what, rate in rates.items():
            print(f"{what}: {rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n})")
    print(added(path))


def copy_rates(tree: Path, out: Path, rounds: int, workers: int) -> dict[str, Rate]:
    """Bytes untouched: ours beside tarfile alone, which checks, hashes and indexes nothing."""
    runs = {
        "original to shards": _ours(tree, out, "original", workers),
        "tarfile copy": _fresh(out, lambda folder: copy_to_tars(tree / "train", folder, workers)),
    }
    return measure(runs, rounds=rounds, seconds=0.0, device=CPU)


def encode_rates(tree: Path, out: Path, rounds: int, workers: int) -> dict[str, Rate]:
    """Smaller images: ours beside FFCV's writer at the same longer side, quality and workers."""
    runs = {
        f"max_side={MAX_SIDE} to shards": _ours(tree, out, f"max_side={MAX_SIDE}", workers),
        "FFCV DatasetWriter": _fresh(
            out,
            lambda folder: write_with_ffcv(
                tree / "train", folder / "train.beton", max_side=MAX_SIDE, quality=QUALITY, workers=workers
            ),
        ),
    }
    return measure(runs, rounds=rounds, seconds=0.0, device=CPU)


def link(tree: Path, out: Path, links: int) -> Path:
    """The tree with `links` names for every training image."""
    for path, number in itertools.product(sorted((tree / "train").rglob("*.JPEG")), range(links)):
        target = out / "train" / path.parent.name / f"{path.stem}_{number}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    return out


def _ours(tree: Path, out: Path, images: str, workers: int) -> Callable[[], int]:
    policy = ImagePolicy.parse(images, QUALITY)

    def run(folder: Path) -> int:
        scan = find_source(tree, "train")
        convert_split(scan, Conversion(out=folder, policy=policy, workers=workers, min_shards=workers), _say_nothing)
        return len(scan)

    return _fresh(out, run)


def _fresh(out: Path, run: Callable[[Path], int]) -> Callable[[], int]:
    """Runs in an empty folder each time; what was written there before is removed first, in everybody's time alike."""

    def in_an_empty_folder() -> int:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return run(out)

    return in_an_empty_folder


def _say_nothing(_: str) -> None:
    pass
