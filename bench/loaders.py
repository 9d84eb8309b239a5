"""`python -m bench loaders`: images a second through whole loaders, ours beside those that people use."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.limits import memory_group
from bench.options import check_positive
from bench.peers.ffcv_writer import write_with_ffcv
from bench.rows import append_rates
from bench.timing import measure
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy
from convert.photographs import make_demo_sets
from convert.sources import find_source
from loaders import InputError
from loaders.cores import usable_cores

CPU = torch.device("cpu")
QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A loader to measure: a module of `bench.peers`, and a function of it where that is not `batches`; or "ours"."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


NATIVE = System(name="ours", options={"decoder": "native"})
FFCV_PIXELS = System(name="ours", options={"decoder": "ffcv"})
DALI = System(name="ours", options={"decoder": "dali"})
DALI_AND_NATIVE = System(name="ours", options={"decoder": "dali+native"})
REFERENCE = System(name="ours", options={"decoder": "reference"})
FFCV = System(name="ffcv_loader")
FFCV_THROUGH = System(name="ffcv_loader", options={"fits": False})
BETONS = {"500 px .beton": (500, "jpg"), "400 px .beton": (400, "jpg"), "raw 256 px .beton": (256, "raw")}
# By the set that they read; the last is what the ratios are to.
SYSTEMS: Mapping[str, Mapping[str, System]] = {
    "tree": {
        "native": NATIVE,
        "dali": DALI,
        "dali+native": DALI_AND_NATIVE,
        "reference": REFERENCE,
        "torchvision, the guide's": System(name="torchvision_loader"),
        "timm": System(name="timm_loader"),
        "DALI on the CPU": System(name="dali_loader"),
        "torchvision v2 uint8": System(name="torchvision_loader:uint8_batches"),
    },
    "shards": {
        "native": NATIVE,
        "dali": DALI,
        "dali+native": DALI_AND_NATIVE,
        "DALI on the CPU": System(name="dali_loader:shard_batches"),
        "webdataset with torchvision v2 uint8": System(name="webdataset_loader"),
    },
    "augmented tree": {
        "native, the guide's": System(name="ours", options={"augmented": True}),
        "torchvision, the guide's": System(name="torchvision_loader", options={"augmented": True}),
        "DALI on the CPU with its own RandAugment": System(name="dali_loader", options={"augmented": True}),
    },
    **{name: {"native": NATIVE, "ffcv": FFCV_PIXELS, "FFCV": FFCV} for name in BETONS},
}


def loaders(
    *,
    data_dir: Path | None = None,
    batch_size: int = 128,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 3.0,
    per_class: int = 300,
    workers: int | None = None,
    sets: tuple[str, ...] = (),
    memory: float = 0.0,
) -> None:
    """Measures loaders on the same files, and adds rows to bench/results/loaders.csv.

    Every loader has a process of its own, and one works at a time. Random crops and flips, no further augmentation.

    Args:
        data_dir: a tree with train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of one loader in one round, at least, in whole epochs.
        per_class: images of each of the demo's classes, without --data_dir.
        workers: threads or processes of each loader; the usable cores unless given.
        sets: of "tree", "shards", "augmented tree", "500 px .beton", "400 px .beton" and "raw 256 px .beton"; all by
            default.
        memory: GiB that a process and the cache of its files may take; without a limit unless given.
    """
    check_positive(
        batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, per_class=per_class, workers=workers
    )
    if data_dir and not (data_dir / "train").is_dir():
        raise InputError(f"{data_dir} has no folder train/: name a tree of images, or leave --data_dir out.")
    if memory < 0:
        raise InputError(f"--memory {memory} is impossible: take gibibytes, or 0 for all.")
    unknown = [name for name in sets if name not in SYSTEMS]
    if unknown:
        raise InputError(f"set {unknown[0]!r} is unknown: choose from {', '.join(SYSTEMS)}.")
    workers = usable_cores() if workers is None else workers
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tree = data_dir or make_demo_sets(root / "demo", train_per_class=per_class).photographs
        for name in sets or SYSTEMS:
            path = make_set(name, tree, root, workers)
            _leave_cache(path)
            spec = {"path": str(path), "batch_size": batch_size, "size": size, "workers": workers, "seconds": seconds}
            systems = dict(SYSTEMS[name])
            if memory:
                if name not in BETONS:
                    raise InputError(f"--memory is for sets in one file, not {name!r}: give --sets {','.join(BETONS)}.")
                systems = {"native": NATIVE, "FFCV, os_cache=False": FFCV_THROUGH, "FFCV": FFCV}
            with _processes(systems, spec, round(memory * 2**30)) as processes:
                runs = {system: process.round for system, process in processes.items()}
                rates = measure(runs, rounds=rounds, seconds=0.0, device=CPU)
                reports = {system: process.report for system, process in processes.items()}
            read = f"{name} of {data_dir.name}" if data_dir else name
            options = {"set": read.replace(" ", "_"), "batch": batch_size, "size": size, "workers": workers}
            if not data_dir:
                options["per_class"] = per_class
            if memory:
                options |= {
                    "set_mib": round(sum(file.stat().st_size for file in _files(path)) / 2**20),
                    "limit_mib": round(memory * 2**10),
                }
            extra = {
                system: {
                    "first_batch_s": round(report["first_batch_s"], 2),
                    "memory_mib": round(report["memory_bytes"] / 2**20),
                }
                for system, report in reports.items()
            }
            file = append_rates("loaders", rates, options, CPU, extra)
            reference = list(rates.values())[-1].median
            for system, rate in rates.items():
                print(
                    f"{read}: {system}: {rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}), "
                    f"{rate.median / reference:.2f}x; first batch {extra[system]['first_batch_s']} s, "
                    f"{extra[system]['memory_mib']:,} MiB"
                )
    print(f"Rows added to {file}: commit them.")


def make_set(name: str, tree: Path, root: Path, workers: int) -> Path:
    """The tree's training split in one of the forms of SYSTEMS."""
    if name in ("tree", "augmented tree"):
        return tree
    if name == "shards":
        conversion = Conversion(out=root / "shards", policy=ImagePolicy.parse("original"), workers=workers)
        convert_split(find_source(tree, "train"), conversion, lambda _: None)
        return root / "shards"
    max_side, mode = BETONS[name]
    path = root / f"{mode}-{max_side}.beton"
    write_with_ffcv(tree / "train", path, max_side=max_side, quality=QUALITY, workers=workers, mode=mode)
    return path


def _leave_cache(path: Path) -> None:
    """As after a restart. Of what was just written the system maps two megabytes around each byte that is read."""
    for file in _files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(path: Path) -> list[Path]:
    return [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]


class _Process:
    """A loader in a process of its own."""

    def __init__(self, system: System, spec: Mapping[str, Any]) -> None:
        self._name = system.name
        text = json.dumps({**spec, "system": system.name, "options": system.options})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.loader_process", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )
        self.report: dict[str, Any] = {}

    def round(self) -> int:
        """Runs a round; returns how many images."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.report = json.loads(self.read())
        return int(self.report["images"])

    def read(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"{self._name} ended with code {self._process.wait()}: see what it printed.")
        return line

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _processes(systems: Mapping[str, System], spec: Mapping[str, Any], memory: int) -> Iterator[dict[str, _Process]]:
    with contextlib.ExitStack() as stack:
        processes = {}
        for number, (name, system) in enumerate(systems.items()):
            own = {"group": ""}
            if memory:
                # A file of its own: what is cached counts in the group that has read it first, and helps all others.
                path = Path(spec["path"])
                copy = str(shutil.copy(path, path.with_name(f"{number}-{path.name}")))
                _leave_cache(Path(copy))
                own = {"group": str(stack.enter_context(memory_group(memory, number))), "path": copy}
            processes[name] = _Process(system, {**spec, **own})
            stack.callback(processes[name].close)
        for process in processes.values():
            process.read()  # "ready": imports are over
        yield processes
