"""`python -m bench loaders`: images a second through whole loaders, ours beside those that people use."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.data import BETONS, files_of, in_form, leave_cache, tree_of
from bench.limits import memory_group
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import Rate
from convert.beton import require_ffcv
from loaders import InputError
from loaders.cores import usable_cores
from twistnet.weights import REPOSITORY

CPU = torch.device("cpu")


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
    images: int = 3000,
    workers: int | None = None,
    sets: tuple[str, ...] = (),
    memory: float = 0.0,
) -> None:
    """Measures whole loaders, each in a process of its own, and adds rows to bench/results/loaders.csv.

    Those whose packages are not installed are left out, and named; without FFCV also the sets that it writes, unless
    --sets asks for them.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each loader in one round, at least; a round has whole epochs.
        images: to make, without --data_dir.
        workers: threads or processes of each loader; the usable cores unless given.
        sets: of "tree", "shards", "augmented tree", "500 px .beton", "400 px .beton" and "raw 256 px .beton"; all by
            default.
        memory: GiB that a process and the cache of its files may take; without a limit unless given.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, images=images, workers=workers)
    if memory < 0:
        raise InputError(f"--memory {memory} is impossible: take gibibytes, or 0 for all.")
    unknown = [name for name in sets if name not in SYSTEMS]
    if unknown:
        raise InputError(f"set {unknown[0]!r} is unknown: choose from {', '.join(SYSTEMS)}.")
    jpegs = [name for name in sets or SYSTEMS if name not in BETONS]
    if memory and jpegs:
        raise InputError(f"--memory is for sets in one file, not {jpegs[0]!r}: give --sets {','.join(BETONS)}.")
    check_results("loaders")
    workers = usable_cores() if workers is None else workers
    chosen = sets or tuple(SYSTEMS)
    if any(name in BETONS for name in chosen):
        try:
            require_ffcv()
        except InputError as error:
            if sets:
                raise
            chosen = tuple(name for name in chosen if name not in BETONS)
            print(f"Left out: {', '.join(BETONS)}: {error}")
    with tree_of(data_dir, images) as (tree, root):
        for name in chosen:
            path = in_form(name.removeprefix("augmented "), tree, root, workers)
            leave_cache(path)
            spec = {"path": str(path), "batch_size": batch_size, "size": size, "workers": workers, "seconds": seconds}
            systems = (
                {"native": NATIVE, "FFCV, os_cache=False": FFCV_THROUGH, "FFCV": FFCV} if memory else SYSTEMS[name]
            )
            rates = loader_rates(systems, spec, rounds, round(memory * 2**30))
            options = {"set": name, "data": tree.name, "batch": batch_size, "size": size, "workers": workers}
            if memory:
                options |= {
                    "set_mib": round(sum(file.stat().st_size for file in files_of(path)) / 2**20),
                    "limit_mib": round(memory * 2**10),
                }
            file = append_rates("loaders", rates, options, CPU)
            reference = list(rates.values())[-1]
            for system, rate in rates.items():
                print(f"{name} of {tree.name}: {system}: {described(rate, reference)}")
    print(added(file))


def described(rate: Rate, reference: Rate) -> str:
    """A loader's rate, with what it took, for people to read."""
    return (
        f"{rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}), "
        f"{rate.ratio_to(reference):.2f}x; first batch {rate.first_s:.2f} s, {rate.cpu_share:.0%} of the cores, "
        f"{rate.memory_bytes / 2**20:,.0f} MiB"
    )


def loader_rates(systems: Mapping[str, System], spec: Mapping[str, Any], rounds: int, memory: int) -> dict[str, Rate]:
    """Rates of loaders over one set, of a process each.

    Args:
        systems: by name; those whose packages are missing are left out, and named.
        spec: path, batch_size, size, workers and seconds, as `bench.loader_process` takes them.
        rounds: interleaved rounds.
        memory: bytes that each may take; 0 for no limit.

    Raises:
        InputError: where one fails, or none is installed.
    """
    with _processes(systems, spec, memory) as processes:
        for _ in range(rounds + 1):  # one warms up
            for process in processes.values():
                process.round()
        return {system: process.rate() for system, process in processes.items()}


class _Process:
    """A loader in a process of its own."""

    def __init__(self, name: str, system: System, spec: Mapping[str, Any]) -> None:
        self._name = name
        text = json.dumps({**spec, "system": system.name, "options": system.options})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.loader_process", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self._reports: list[dict[str, Any]] = []

    def round(self) -> None:
        """Runs a round, and waits until the loader is at rest."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._reports.append(self.read())

    def rate(self) -> Rate:
        """Of the rounds, as the process has measured them itself; the first is the one before those that count."""
        first, *counted = self._reports
        busy, seconds = (sum(report[name] for report in counted) for name in ("cpu_s", "seconds"))
        return Rate.of(
            [report["images"] / report["seconds"] for report in counted],
            first_s=first["first_batch_s"],
            cpu_share=busy / seconds / usable_cores(),
            memory_bytes=max(report["memory_bytes"] for report in counted),
        )

    def read(self) -> dict[str, Any]:
        """The next that it has to say.

        Raises:
            InputError: where it has failed.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"{self._name} ended with code {self._process.wait()}: see what it printed.")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise InputError(f"the loader {self._name} has failed: {said['error'].rstrip('.')}.")
        return said

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
                leave_cache(Path(copy))
                own = {"group": str(stack.enter_context(memory_group(memory, number))), "path": copy}
            processes[name] = _Process(name, system, {**spec, **own})
            stack.callback(processes[name].close)
        ready = {}
        for name, process in processes.items():
            missing = process.read().get("missing")  # or it is ready: imports are over
            if missing:
                print(f"Left out: {name}: {missing}.")
            else:
                ready[name] = process
        if not ready:
            raise InputError("no loader of this set is installed: twistnet doctor says what is missing.")
        yield ready
