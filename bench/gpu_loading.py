"""The part of `python -m bench gpu` that loads: decoders on the card beside DALI's own pipeline, crops, upload."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bench.pixels import PixelStore
from bench.timing import Rate, measure
from loaders import CropPolicy, Loader, open_loader, open_store
from loaders.choosing import make_decoder
from loaders.dali import DaliDecoder
from loaders.loader import BatchLoader, Plan
from loaders.order import Order
from loaders.types import Decoder

HARDWARE = (0.0, 0.65, 1.0)
_BATCHES = 8  # of one call


def loading_rates(
    device: torch.device, shards: Path, *, threads: int, batch_size: int, size: int, rounds: int, seconds: float
) -> dict[str, Rate]:
    """Whole loaders over shards, uint8 without augmentation; DALI's own reader and pipeline as the reference."""
    from bench.peers import dali_loader

    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], int]] = {}
        for decoder in ("native", "dali", "dali+native"):
            loader = open_loader(
                shards, "train", batch_size, train=True, size=size, decoder=decoder, device=device, num_threads=threads
            )
            runs[decoder] = _some(_batches(stack.enter_context(loader)))
        options = {"batch_size": batch_size, "size": size, "workers": threads, "card": device.index}
        epochs = dali_loader.shard_batches(shards, **options)
        runs["DALI"] = _some(count for epoch in epochs for count in epoch)
        return measure(runs, rounds=rounds, seconds=seconds, device=device)


def decode_rates(
    device: torch.device, shards: Path, *, threads: int, batch_size: int, size: int, rounds: int, seconds: float
) -> dict[str, Rate]:
    """The decoders alone, native last: how much the card's own JPEG decoder is best given.

    The bytes are in memory, and two batches are decoded at once, as a loader does.
    """
    store = open_store(shards, "train")
    ids = np.arange(batch_size) % len(store)
    data = [bytes(store.read(int(sample))) for sample in ids]
    with contextlib.ExitStack() as stack:
        decoders: dict[str, Decoder] = {
            f"dali, {share:.0%} to the card's decoder": DaliDecoder(
                "bilinear", threads, card=device.index, largest=store.largest, hardware=share
            )
            for share in HARDWARE
        }
        decoders["native"] = make_decoder("native", "bilinear", threads)
        boxes = CropPolicy().boxes(0, 0, ids, decoders["native"].sizes(data)[0], train=True)
        both = stack.enter_context(ThreadPoolExecutor(2))
        runs: dict[str, Callable[[], int]] = {}
        for name, decoder in decoders.items():
            stack.callback(decoder.close)
            outs = torch.empty(2, batch_size, size, size, 3, dtype=torch.uint8, device=_memory_of(decoder, device))
            decode = functools.partial(_decode, decoder, data, boxes)
            runs[name] = functools.partial(lambda decode, outs: sum(both.map(decode, outs)), decode, outs)
        return measure(runs, rounds=rounds, seconds=seconds, device=device)


def crop_rates(
    device: torch.device, store: PixelStore, *, threads: int, batch_size: int, size: int, rounds: int, seconds: float
) -> dict[str, Rate]:
    """Whole loaders over raw pixels in memory, cropped on the device; by the native decoder as the reference."""
    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], int]] = {}
        for name in ("device", "native"):
            loader = _of_pixels(
                store, make_decoder(name, "bilinear", threads, device), batch_size, size, device, threads
            )
            runs[name] = _some(_batches(stack.enter_context(loader)))
        return measure(runs, rounds=rounds, seconds=seconds, device=device)


def _batches(loader: Loader) -> Iterator[int]:
    for epoch in itertools.count():
        for batch in loader.epoch(epoch):
            yield int(batch.ids.numel())
            del batch


def _some(counts: Iterator[int]) -> Callable[[], int]:
    """What runs a number of batches, without the start of an epoch in each."""
    return lambda: sum(itertools.islice(counts, _BATCHES))


def _decode(decoder: Decoder, data: list[bytes], boxes: np.ndarray, out: torch.Tensor) -> int:
    flips = np.zeros(len(data), dtype=np.bool_)
    decoder.decode(data, boxes, flips, out if decoder.on_device else out.numpy())
    return len(data)


def _memory_of(decoder: Decoder, device: torch.device) -> torch.device:
    return device if decoder.on_device else torch.device("cpu")


def _of_pixels(
    store: PixelStore, decoder: Decoder, batch_size: int, size: int, device: torch.device, threads: int
) -> BatchLoader:
    plan = Plan(
        store=store,
        decoder=decoder,
        order=Order(num_samples=len(store), global_batch=batch_size),
        crops=CropPolicy(),
        augment=None,
        train=True,
        size=size,
        device=device,
        rank=0,
        world_size=1,
        max_bad=0.0,
        verify=False,
        form="memory",
        choice="",
    )
    return BatchLoader(plan, num_threads=threads, look_ahead=3)
