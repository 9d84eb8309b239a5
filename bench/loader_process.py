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
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.timing import peak_bytes
from loaders import CropPolicy, InputError, Loader, dali_graph, ffcv, open_loader
from loaders.errors import one_line
from loaders.kept import kept_pixels
from loaders.native import library as native
from twistnet.recipes import named

_TICKS = os.sysconf("SC_CLK_TCK")  # a second
_POLL_S, _REST_S, _RESTLESS_S = 0.02, 0.1, 30.0


# What keeps each of our decoders from being measured.
_LACKS: Mapping[str, Callable[[], str | None]] = {
    "native": native.why_missing,
    "ffcv": ffcv.why_missing,
    "dali": dali_graph.why_missing,
    "dali+native": lambda: dali_graph.why_missing() or native.why_missing(),
    "reference": lambda: None,
}
# What brings a peer that is not installed, by its module.
_BRINGS = {"ffcv": "'twistnet[ffcv]'", "nvidia": "'twistnet[dali]'"}


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


def finetuning(
    path: Path, *, batch_size: int, size: int, workers: int, policy: str, keeps: str
) -> Iterator[Iterator[int]]:
    """Our loader of fine-tuning, by recipe dtd: one epoch after another, as numbers of images.

    Args:
        path: a folder in DTD's layout, whose list train1 is read.
        batch_size: images of a batch.
        size: side of the images in pixels.
        workers: threads that decode.
        policy: operations on colours and geometry, as the recipe takes it.
        keeps: "first" for epochs that each find nothing kept, "later" for those that find what came before, "none".
    """
    recipe = named("dtd").with_changes(policy=policy)
    epoch = 0

    def opened() -> Loader:
        return open_loader(
            path,
            "train1",
            batch_size,
            train=True,
            size=size,
            decoder="native",
            num_threads=workers,
            crops=recipe.crops(),
            augment=recipe.train_augment(),
            kept=None if keeps == "none" else kept_pixels(None),
        )

    while True:
        with opened() as loader:
            yield (int(batch.valid.sum()) for batch in loader.epoch(epoch))
            while keeps != "first":
                epoch += 1
                yield (int(batch.valid.sum()) for batch in loader.epoch(epoch))


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

    A round lasts until the loader is at rest. Where a package is missing it says so, as `missing`, and ends.
    """
    module, _, name = spec["system"].partition(":")
    make: Callable[..., Iterator[Iterator[int]]]
    try:
        if module == "ours":
            make, missing = finetuning if name else ours, _LACKS[spec["options"].get("decoder", "native")]()
        else:
            make = getattr(importlib.import_module(f"bench.peers.{module}"), name or "batches")
            missing = None
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        missing = f"{one_line(error)}: pip install {_BRINGS.get(package, package)}"
    if missing:
        print(json.dumps({"missing": missing}), flush=True)
        return
    if spec["group"]:
        Path(spec["group"]).write_text(str(os.getpid()))
    options = {key: spec[key] for key in ("batch_size", "size", "workers")} | spec.get("options", {})
    epochs = make(Path(spec["path"]), **options)
    first: float | None = None
    print(json.dumps({"ready": True}), flush=True)
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


def told(error: Exception) -> str:
    """What a loader has failed with, in a line: of a worker process's error, whose message is a traceback, its end."""
    if isinstance(error, InputError):
        return str(error)
    lines = str(error).strip().splitlines()
    return one_line(lines[-1] if lines else type(error).__name__, 300)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except Exception as error:  # whatever a peer raises is the one line that the bench ends with
        if os.environ.get("TWISTNET_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        print(json.dumps({"error": told(error)}), flush=True)
        sys.exit(1)
