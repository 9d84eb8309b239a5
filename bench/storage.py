"""Reading a set, without decoding: in order and at random, from the disk and from the system's cache."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench.data import copied, files_of, in_form, leave_cache, tree_of
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from loaders.cores import usable_cores
from loaders.encodings import Encoded
from loaders.manifest import is_converted, read_manifest
from loaders.opening import find_store

CPU = torch.device("cpu")
FORMS = ("tree", "shards")
COLD = 0.1  # of a set that stayed in memory: more, and the round was none of the disk
_CHUNK = 1 << 20
_AT_ONCE = 16  # samples that a thread reads in a row, as a loader's does


def storage(
    *,
    data_dir: Path | None = None,
    images: int = 2000,
    rounds: int = 5,
    seconds: float = 2.0,
    workers: int | None = None,
) -> None:
    """Measures how fast a set is read, cold and warm, and adds rows to bench/results/storage.csv.

    Cold is after the system was asked to forget the set; `cached` says what share of it stayed in memory all the same,
    as in a file system that is memory. Each cold round reads the whole set once.

    Args:
        data_dir: a tree with a folder train/, which is measured as it is and as shards, or a converted set or .beton,
            measured as it is; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: to make, without --data_dir.
        rounds: interleaved rounds.
        seconds: of each warm thing in one round, at least.
        workers: threads that read at random; the usable cores unless given.
    """
    check_positive(images=images, rounds=rounds, seconds=seconds, workers=workers)
    check_results("storage")
    workers = usable_cores() if workers is None else workers
    with contextlib.ExitStack() as stack:
        if data_dir and (is_converted(data_dir) or data_dir.suffix == ".beton"):
            name, sets = data_dir.name, {find_store(data_dir, "train")[1].name: data_dir}
        else:
            tree, root = stack.enter_context(tree_of(data_dir, images))
            name, sets = tree.name, {form: in_form(form, tree, root, workers) for form in FORMS}
        for form, path in sets.items():
            rates, cached, mean_bytes = storage_rates(path, rounds=rounds, seconds=seconds, workers=workers)
            extra = {
                what: {"mb_per_s": round(rate.median * mean_bytes / 1e6, 1), "cached": cached.get(what, 1.0)}
                for what, rate in rates.items()
            }
            options = {"set": form, "data": name, "kb": round(mean_bytes / 1e3, 1), "workers": workers}
            file = append_rates("storage", rates, options, CPU, extra)
            for what, rate in rates.items():
                print(
                    f"{form}: {what}: {extra[what]['mb_per_s']:,.0f} MB/s, {rate.median:,.0f} img/s "
                    f"({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}), {_cached_said(what, extra[what]['cached'])}"
                )
    print(added(file))


def storage_rates(
    path: Path, *, rounds: int, seconds: float, workers: int
) -> tuple[dict[str, Rate], dict[str, float], float]:
    """Rates of a training split; what share of it was cached before a cold round, at most; mean bytes of an image."""
    store, form = find_store(path, "train")
    files = _files_read(path, form.name)
    order = np.random.default_rng(0).permutation(len(store))
    mean_bytes = float(np.mean([len(copied(store.read(int(sample)))) for sample in order[:500]]))
    cached: dict[str, float] = {}

    def forget(name: str) -> None:
        if name.startswith("cold"):
            store.release()
            for file in files:
                leave_cache(file)
            cached[name] = round(max(cached.get(name, 0.0), share_in_memory(files)), 3)

    with ThreadPoolExecutor(workers) as pool:
        at_random = _reader(store.read, order.tolist(), pool)
        # The cold ones are once over the set, at any `seconds`: what is read twice is warm.
        cold = {"cold, in order": _in_order(files, len(store)), "cold, at random": at_random}
        warm = {"warm, in order": _in_order(files, len(store)), "warm, at random": at_random}
        rates = measure(cold, rounds=rounds, seconds=0.0, device=CPU, before=forget)
        rates |= measure(warm, rounds=rounds, seconds=seconds, device=CPU)
    return rates, cached, mean_bytes


def _files_read(path: Path, form: str) -> list[Path]:
    """Those that hold the training split's images."""
    if not is_converted(path):
        return files_of(path if path.is_file() else path / "train")
    split = read_manifest(path).splits["train"]
    held = split.shards if form == "shards" or split.beton is None else (split.beton,)
    return [path / entry.name for entry in held]


def _cached_said(what: str, share: float) -> str:
    if what.startswith("cold") and share > COLD:
        return f"not cold: {share:.0%} stayed in memory"
    return f"{share:.0%} cached before"


def _in_order(files: Sequence[Path], count: int) -> Callable[[], int]:
    buffer = bytearray(_CHUNK)

    def run() -> int:
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass
        return count

    return run


def _reader(read: Callable[[int], Encoded], samples: Sequence[int], pool: ThreadPoolExecutor) -> Callable[[], int]:
    def some(first: int) -> int:
        return sum(len(copied(read(sample))) for sample in samples[first : first + _AT_ONCE])

    def run() -> int:
        for _ in pool.map(some, range(0, len(samples), _AT_ONCE)):
            pass
        return len(samples)

    return run


def share_in_memory(files: Sequence[Path]) -> float:
    """Share of the files' pages that the system's cache holds, 0 to 1; 1 where the system does not tell."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    held = total = 0
    for file in files:
        size = file.stat().st_size
        if not size:
            continue
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
        ):
            pages = -(-size // mmap.PAGESIZE)
            vector = ctypes.create_string_buffer(pages)
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
            if mincore(address, size, vector) == 0:
                held += sum(page & 1 for page in vector.raw[:pages])
                total += pages
    return held / total if total else 1.0
