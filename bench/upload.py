"""Batches from the host's memory to the device."""

from __future__ import annotations

import functools
from typing import Literal

import torch

from bench.options import check_positive
from bench.rows import append_rates
from bench.timing import Rate, measure
from twistnet.distributed import choose_device


def upload(
    *,
    batch_size: int = 256,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 1.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures uploads of uint8 batches, and adds rows to bench/results/upload.csv.

    Without a card this is a copy inside the host's memory, and the rows say so by their device.

    Args:
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each in one round, at least.
        device: where to; auto takes a CUDA card where there is one.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds)
    where = choose_device(device, 0)
    rates = upload_rates(where, batch_size=batch_size, size=size, rounds=rounds, seconds=seconds)
    per_image = 3 * size * size
    extra = {name: {"gb_per_s": round(rate.median * per_image / 1e9, 2)} for name, rate in rates.items()}
    file = append_rates("upload", rates, {"batch": batch_size, "size": size}, where, extra)
    for name, rate in rates.items():
        print(
            f"{name} memory to {where.type}: {extra[name]['gb_per_s']} GB/s, {rate.median:,.0f} img/s "
            f"({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n})"
        )
    print(f"Rows added to {file}: commit them.")


def upload_rates(device: torch.device, *, batch_size: int, size: int, rounds: int, seconds: float) -> dict[str, Rate]:
    """From pinned memory, where there is a card; from memory that is not pinned as the reference."""
    paged = torch.empty(batch_size, size, size, 3, dtype=torch.uint8)
    on_device = torch.empty_like(paged, device=device)

    def copy(batch: torch.Tensor) -> int:
        on_device.copy_(batch, non_blocking=True)
        return len(batch)

    runs = {"pinned": functools.partial(copy, paged.pin_memory())} if device.type == "cuda" else {}
    return measure(runs | {"paged": functools.partial(copy, paged)}, rounds=rounds, seconds=seconds, device=device)
