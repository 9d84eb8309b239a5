"""`python -m bench.loader_process`: one loader in a process of its own, which runs a round for every line it reads.

Apart, because FFCV sets torch's number of threads, DALI and numba keep theirs, and memory is counted by process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.timing import peak_bytes
from loaders import CropPolicy, open_loader
from twistnet.recipes import named

_TICKS = os.sysconf("SC_CLK_TCK")  # a second
_POLL_S, _REST_S, _RESTLESS_S = 0.02, 0.1, 30.0


def ours(
    path: Path, *, batch_size: int, size: int, workers: int, decoder: str = "native", augmented: bool = False
) -> Iterator[Iterator[int]]:
    """Our loader: one epoch after another, each as the number of images of its batches.

    Args:
        path: of the set.
        batch_size: images of a batch.
        size: side of the images in pixels.
        workers: threads that decode.
        decoder: as for `open_loader`.
        augmented: whether the guide's RandAugment, normalisation and mixing follow; else uint8 as decoded.
    """
    crops = CropPolicy(interpolation="area" if decoder == "ffcv" else "bilinear")
    augment = named("guide").train_augment() if augmented else None
    loader = open_loader(
        path,
        "train",
        batch_size,
        train=True,
        size=size,
        decoder=decoder,
        num_threads=workers,
        crops=crops,
        augment=augment,
    )
    epoch = 0
    while True:
        yield (len(batch.images) for batch in loader.epoch(epoch))
        epoch += 1


def memory_bytes() -> int:
    """Largest resident memory of this process and its children, files that are mapped included.

    What processes share is counted for each of them.
    """
    return sum(peak_bytes(pid) for pid in _processes())


def cpu_s() -> float:
    """Seconds that the cores have worked for this process and for those of its children that have not ended."""
    return sum(map(_cpu_ticks, _processes())) / _TICKS


def at_rest() -> float:
    """Waits until this process and its children work no more, and says since when, on `time.perf_counter`.

    A loader that fills its queues for the next epoch would else be given those batches by the round that follows, and
    take the cores of the one that is measured meanwhile.

    Raises:
        RuntimeError: if they work for half a minute.
    """
    begun = since = time.perf_counter()
    worked = cpu_s()
    while (now := time.perf_counter()) - since < _REST_S:
        if now - begun > _RESTLESS_S:
            raise RuntimeError(f"the loader still works {_RESTLESS_S} s after its last batch: no round ends")
        time.sleep(_POLL_S)
        used = cpu_s()
        if used - worked > 1.5 / _TICKS:  # one tick may be what this loop takes
            since, worked = time.perf_counter(), used
    return since


def _processes() -> list[int]:
    pids = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            pids += map(int, (task / "children").read_text().split())
    return pids


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    # User and system, its own and those of its children that it has waited for: a DataLoader's, after each epoch.
    return sum(map(int, fields[11:15]))


def main(spec: dict[str, Any]) -> None:
    """Says that it is ready; then runs rounds of at least `seconds`, in whole epochs, and prints JSON for each.

    A round lasts until the loader is at rest.
    """
    module, _, name = spec["system"].partition(":")
    make = ours if module == "ours" else getattr(importlib.import_module(f"bench.peers.{module}"), name or "batches")
    if spec["group"]:
        Path(spec["group"]).write_text(str(os.getpid()))
    options = {key: spec[key] for key in ("batch_size", "size", "workers")} | spec.get("options", {})
    epochs = make(Path(spec["path"]), **options)
    first: float | None = None
    print("ready", flush=True)
    for _ in sys.stdin:
        begun, worked, images = time.perf_counter(), cpu_s(), 0
        while not images or time.perf_counter() - begun < spec["seconds"]:
            for count in next(epochs):
                first = first or time.perf_counter() - begun  # a loader is opened with its first batch
                images += count
        report = {
            "images": images,
            "seconds": at_rest() - begun,
            "cpu_s": cpu_s() - worked,
            "first_batch_s": first,
            "memory_bytes": memory_bytes(),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
