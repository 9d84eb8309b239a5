"""Many small batches with checkpoints: memory, threads, file handles and shared memory must not grow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.options import check_positive
from bench.recorded import watched
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from convert.photographs import make_demo_sets
from loaders import Batch, InputError, open_store
from twistnet import environment
from twistnet.__main__ import main

BATCH_SIZE, SIZE, MODEL = 4, 32, "test_resnet"  # images, pixels, timm's smallest
LEAST_STEPS = 200
MOST_GROWTH_MIB = 16.0  # over the second half, by a straight line
# Of the values in a window the least is taken: a batch, a checkpoint or an epoch's end may be under way at a moment.
_WINDOWS, _WINDOW_STEPS = 40, 50
_SHARED = "/dev/shm/"


def soak(*, data_dir: Path | None = None, steps: int = 10_000, workers: int = 2, checkpoint_steps: int = 10) -> None:
    """Trains for many small steps with checkpoints, refuses any growth in the second half, and adds a row to soak.csv.

    Args:
        data_dir: a tree or a converted set with the splits train and val; photographs that packages ship are cut unless
            given.
        steps: of the run, at least.
        workers: threads that load.
        checkpoint_steps: steps between checkpoints.
    """
    check_positive(steps=steps, workers=workers, checkpoint_steps=checkpoint_steps)
    check_results("soak")
    if steps < LEAST_STEPS:
        raise InputError(f"--steps {steps} are too few to see growth in: take at least {LEAST_STEPS}.")
    with tempfile.TemporaryDirectory() as folder:
        data = data_dir or make_demo_sets(Path(folder) / "demo", progress=False).photographs
        found = soaked(data, Path(folder) / "run", steps=steps, workers=workers, checkpoint_steps=checkpoint_steps)
    about = environment.describe(torch.device("cpu"))
    options = {"batch": BATCH_SIZE, "size": SIZE, "model": MODEL, "workers": workers, "data": data.name}
    path = append_rows(
        "soak",
        [columns_before(about) | {"checkpoint_steps": checkpoint_steps} | found.row() | columns_after(about, options)],
    )
    found.refuse_growth()
    print(found)
    print(added(path))


@dataclass(slots=True)
class Use:
    """What the process held at every step, of the kinds that a leak would show in.

    Attributes:
        resident: MiB.
        threads: of the process, those of libraries too.
        handles: open files.
        shared: MiB of files in /dev/shm that the process has open or mapped.
        seconds: of the run.
    """

    resident: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    handles: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def note(self) -> None:
        """Adds what is held now."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.threads.append(len(os.listdir("/proc/self/task")))
        self.handles.append(len(os.listdir("/proc/self/fd")))
        self.shared.append(_shared_mib())

    def refuse_growth(self) -> None:
        """Raises InputError where the second half ends with more than it began with."""
        for what in ("threads", "handles", "shared"):
            least = _least(getattr(self, what))
            if least[-1] > least[0]:
                raise InputError(f"{what} grew from {least[0]:g} to {least[-1]:g} in the second half: they leak.")
        if self.growth_mib > MOST_GROWTH_MIB:
            raise InputError(
                f"memory grew by {self.growth_mib:.1f} MiB in the second half, from {_least(self.resident)[0]:.0f}, "
                f"where {MOST_GROWTH_MIB:g} are allowed: it leaks."
            )

    @property
    def growth_mib(self) -> float:
        """Of resident memory over the second half, by a straight line through the least of each window."""
        least = _least(self.resident)
        slope, _ = np.polyfit(np.arange(len(least)), least, 1)
        return float(slope * (len(least) - 1))

    def row(self) -> dict[str, float]:
        """The columns of its figures: of the second half, its first window and its last."""
        pairs = {what: _least(getattr(self, what)) for what in ("resident", "threads", "handles", "shared")}
        ends = {
            f"{what}_{end}": round(least[place], 1)
            for what, least in pairs.items()
            for end, place in (("half", 0), ("end", -1))
        }
        growth = {"growth_mib": round(self.growth_mib, 2), "peak_mib": round(max(self.resident), 1)}
        return {"n": len(self.resident), **ends, **growth, "seconds": round(self.seconds, 1)}

    def __str__(self) -> str:
        row = self.row()
        return (
            f"{row['n']:,} batches in {self.seconds:.0f} s; in the second half {row['threads_end']:g} threads, "
            f"{row['handles_end']:g} file handles and {row['shared_end']:g} MiB of /dev/shm throughout, memory "
            f"{row['resident_half']} to {row['resident_end']} MiB, {row['growth_mib']:+} by a straight line."
        )


def soaked(data: Path, run_dir: Path, *, steps: int, workers: int, checkpoint_steps: int) -> Use:
    """Trains in this process.

    Args:
        data: a set.
        run_dir: the run's folder.
        steps: of the run, at least.
        workers: threads that load.
        checkpoint_steps: steps between checkpoints.

    Raises:
        InputError: where training fails.
    """
    per_epoch = -(-len(open_store(data, "train")) // BATCH_SIZE)
    flags = {
        **{"data_dir": data, "recipe": "demo", "model": MODEL, "epochs": -(-steps // per_epoch), "size": SIZE},
        **{"batch_size": BATCH_SIZE, "device": "cpu", "workers": workers, "checkpoint_dir": run_dir},
        **{"log_every": checkpoint_steps, "checkpoint_minutes": 0},
    }
    use = Use()

    def see(epoch: int, step: int, batch: Batch) -> None:
        del epoch, step, batch
        use.note()

    began = time.monotonic()
    with watched(see):
        code = main(["pretrain", "--no_publish", *(f"--{name}={value}" for name, value in flags.items())])
    if code:
        raise InputError(f"training ended with code {code}: see what it said.")
    use.seconds = time.monotonic() - began
    return use


def _least(values: Sequence[float]) -> list[float]:
    """Of each window of the second half."""
    half = np.asarray(values[len(values) // 2 :])
    return [float(window.min()) for window in np.array_split(half, min(_WINDOWS, len(half) // _WINDOW_STEPS))]


def _shared_mib() -> float:
    """MiB of the different files in /dev/shm that this process has open or mapped."""
    found: dict[str, int] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(_SHARED):
            begin, end = (int(each, 16) for each in fields[0].split("-"))
            found[fields[5]] = found.get(fields[5], 0) + end - begin
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(_SHARED) and target not in found:
                found[target] = os.stat(f"/proc/self/fd/{name}").st_size
        except OSError:  # closed meanwhile, as the one of the listing is
            continue
    return sum(found.values()) / 2**20
