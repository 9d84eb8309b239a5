"""Batches from the host's memory to the device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from twistnet.distributed import choose_device

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNTOLD = 32 << 20  # of a machine that does not tell


def upload(
    *,
    batch_size: int = 256,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures uploads of uint8 batches, and adds rows to bench/results/upload.csv.

    The batches take turns, from and to as many buffers as exceed the processor's last cache: those that a loader fills
    come from memory, too. Without a card this is a copy inside the host's memory, and the rows say so by their device.

    Args:
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each in one round, at least.
        device: where to; auto takes a CUDA card where there is one.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds)
    check_results("upload")
    where = choose_device(device, 0)
    rates = upload_rates(where, batch_size=batch_size, size=size, rounds=rounds, seconds=seconds)
    per_image = 3 * size * size
    extra = {name: {"gb_per_s": round(rate.median * per_image / 1e9, 2)} for name, rate in rates.items()}
    options = {"batch": batch_size, "size": size, "buffers": num_buffers(batch_size * per_image)}
    file = append_rates("upload", rates, options, where, extra)
    for name, rate in rates.items():
        print(
            f"{name} memory to {where.type}: {extra[name]['gb_per_s']} GB/s, {rate.median:,.0f} img/s "
            f"({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n})"
        )
    print(added(file))


def upload_rates(device: torch.device, *, batch_size: int, size: int, rounds: int, seconds: float) -> dict[str, Rate]:
    """From pinned memory, where there is a card; from memory that is not pinned as the reference."""
    count = num_buffers(3 * batch_size * size**2)
    # Written to: memory that never was is one page of zeros, wherever it is read.
    paged = torch.ones(count, batch_size, size, size, 3, dtype=torch.uint8)
    on_device = torch.ones_like(paged, device=device)
    runs = {"pinned": _copy(paged.pin_memory(), on_device)} if device.type == "cuda" else {}
    return measure(runs | {"paged": _copy(paged, on_device)}, rounds=rounds, seconds=seconds, device=device)


def _copy(batches: torch.Tensor, to: torch.Tensor) -> Callable[[], int]:
    turns = itertools.cycle(zip(batches, to, strict=True))

    def run() -> int:
        batch, target = next(turns)
        target.copy_(batch, non_blocking=True)
        return len(batch)

    return run


def num_buffers(size: int) -> int:
    """Of that many bytes each: together twice the last cache, so that each has left it before its next turn."""
    return 2 * last_cache_bytes() // size + 1


def last_cache_bytes() -> int:
    """Of the processor's largest cache, as far as the system tells."""
    found = [_UNTOLD]
    for file in _CACHES.glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            found.append(int(text[:-1]) * 1024)
    return max(found)
