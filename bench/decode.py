"""Decoders alone, on images in memory: what a core makes of each, and what the machine does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench.data import QUALITY, check_images, copied, tree_of, unusable
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from convert.images import BadImage, ImagePolicy
from convert.images import store as stored
from loaders import CropPolicy, dali_graph, ffcv
from loaders.choosing import make_decoder
from loaders.cores import usable_cores
from loaders.encodings import Encoded
from loaders.loader import BATCHES_AT_ONCE
from loaders.native.library import why_missing
from loaders.opening import open_store
from loaders.reference import decoded
from loaders.types import Decoder

CPU = torch.device("cpu")
# What a converted set holds of an image; the last one as pixels.
POLICIES = {
    "original": "original",
    "500 px": "max_side=500",
    "400 px": "max_side=400",
    "256 px": "max_side=256",
    "raw 256 px": "max_side=256",
}
_RAW = "raw 256 px"


def decode(
    *,
    data_dir: Path | None = None,
    images: int = 512,
    size: int = 224,
    batch_size: int = 128,
    rounds: int = 5,
    seconds: float = 1.0,
    workers: int | None = None,
) -> None:
    """Measures every decoder that is installed on random crops, on one core and on all, and adds rows to decode.csv.

    Megapixels are those of the whole images, whatever of them the crops need.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: that are decoded, one after another.
        size: side of the crops in pixels.
        batch_size: images of a call.
        rounds: interleaved rounds.
        seconds: of each decoder in one round, at least.
        workers: threads of all cores; the usable ones unless given.
    """
    check_positive(images=images, size=size, batch_size=batch_size, rounds=rounds, seconds=seconds, workers=workers)
    check_results("decode")
    workers = usable_cores() if workers is None else workers
    with tree_of(data_dir, images, checked=False) as (tree, _):
        store = open_store(tree, "train")
        some = np.random.default_rng(0).permutation(len(store))[:images].tolist()
        check_images(store, some)
        originals = {store.key(sample): bytes(store.read(sample)) for sample in some}
    for why in left_out():
        print(f"Left out: {why}.")
    for name, policy in POLICIES.items():
        data = in_memory(originals, name)
        for threads in thread_counts(workers):
            options = {"batch": batch_size, "size": size, "rounds": rounds, "seconds": seconds, "threads": threads}
            rates, megapixels = decode_rates(data, list(originals), **options)  # type: ignore[arg-type]
            extra = {
                each: {
                    "megapixels_per_s": round(megapixels * rate.median, 1),
                    "us_of_a_core": round(1e6 * rate.core_s, 1),
                }
                for each, rate in rates.items()
            }
            kb = round(sum(map(len, map(copied, data))) / len(data) / 1e3, 1)
            about = {"set": name, "policy": policy, "data": tree.name, "kb": kb, "threads": threads, "size": size}
            file = append_rates("decode", rates, about | {"batch": batch_size}, CPU, extra)
            for each, rate in rates.items():
                print(
                    f"{name}, {threads} {'thread' if threads == 1 else 'threads'}: {each}: {rate.median:,.0f} img/s "
                    f"({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}), {extra[each]['megapixels_per_s']:,.0f} MP/s, "
                    f"{extra[each]['us_of_a_core']:,.0f} us of a core an image"
                )
    print(added(file))


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, 8, ... and the last one itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def left_out() -> list[str]:
    """Why decoders cannot be measured here, of those that cannot."""
    return [why for why in dict.fromkeys((why_missing(), ffcv.why_missing(), dali_graph.why_missing())) if why]


def in_memory(originals: Mapping[str, bytes], name: str) -> list[Encoded]:
    """Images as a converted set of one of POLICIES holds them.

    Args:
        originals: by what names each to a person.
        name: of the policy.

    Raises:
        InputError: for one that cannot be converted.
    """
    policy = ImagePolicy.parse(POLICIES[name], QUALITY)
    found: list[Encoded] = []
    for key, image in originals.items():
        try:
            data = stored(image, policy).data
        except BadImage as error:
            raise unusable(key, str(error)) from error
        found.append(decoded(data) if name == _RAW else data)
    return found


def decode_rates(
    data: Sequence[Encoded],
    keys: Sequence[str],
    *,
    batch: int,
    size: int,
    rounds: int,
    seconds: float,
    threads: int,
) -> tuple[dict[str, Rate], float]:
    """Rates of the installed decoders that take such images, reference last; megapixels of an image in the mean.

    Raises:
        InputError: for an image that a decoder cannot decode, by its key.
    """
    raw = isinstance(data[0], np.ndarray)
    names = ["native"] if why_missing() is None else []
    names += ["ffcv"] if ffcv.why_missing() is None else []
    names += ["dali"] if dali_graph.why_missing() is None and not raw else []
    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], int]] = {}
        megapixels = 0.0
        for name in (*names, "reference"):
            decoder = make_decoder(name, "area" if name == "ffcv" else "bilinear", threads)
            stack.callback(decoder.close)
            sizes, _ = decoder.sizes(data)
            megapixels = float(sizes.prod(axis=1).mean()) / 1e6
            # As a loader calls them: `dali` gives a batch half of its threads.
            pool = stack.enter_context(ThreadPoolExecutor(min(BATCHES_AT_ONCE, threads)))
            runs[name] = _all_of(decoder, pool, data, keys, sizes, batch, size)
        return measure(runs, rounds=rounds, seconds=seconds, device=CPU), megapixels


def _all_of(
    decoder: Decoder,
    pool: ThreadPoolExecutor,
    data: Sequence[Encoded],
    keys: Sequence[str],
    sizes: np.ndarray,
    batch: int,
    size: int,
) -> Callable[[], int]:
    ids = np.arange(len(data))
    boxes = CropPolicy().boxes(0, 0, ids, sizes, train=True)
    flips = ids % 2 == 0
    own = threading.local()

    def one(first: int) -> None:
        if not hasattr(own, "out"):
            own.out = np.empty((batch, size, size, 3), dtype=np.uint8)
        these = slice(first, min(first + batch, len(data)))
        failures = decoder.decode(data[these], boxes[these], flips[these], own.out[: these.stop - first])
        for place, reason in failures.items():
            raise unusable(keys[first + place], f"by {decoder.name}: {reason}")

    def run() -> int:
        list(pool.map(one, range(0, len(data), batch)))
        return len(data)

    return run
