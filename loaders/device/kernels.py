"""`loaders.device.passes` as one Triton kernel: a program for some pixels of one box."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loaders.device.passes import Boxes
from loaders.device.taps import BITS, Taps

_BLOCK = 256  # pixels


@triton.jit  # type: ignore[untyped-decorator]
def _resample(
    source: Any,
    target: Any,
    source_starts: Any,
    source_heights: Any,
    source_widths: Any,
    target_starts: Any,
    target_heights: Any,
    target_widths: Any,
    firsts: Any,
    weights: Any,
    by_columns: Any,
    mirrored: Any,
    size: Any,
    taps: Any,
    bits: tl.constexpr,
    block: tl.constexpr,
) -> None:
    box = tl.program_id(0)
    width = tl.load(target_widths + box)
    pixels = tl.load(target_heights + box) * width
    place = tl.program_id(1) * block + tl.arange(0, block)
    if tl.program_id(1) * block < pixels:
        inside = place < pixels
        row, column = place // width, place % width
        columns = tl.load(by_columns + box) != 0
        along = tl.where(columns, column, row)
        first = tl.load(firsts + box * size + along, mask=inside, other=0)
        source_width = tl.load(source_widths + box)
        last = tl.where(columns, source_width, tl.load(source_heights + box)) - 1
        begin = source + tl.load(source_starts + box)
        weight_at = weights + (box * size + along).to(tl.int64) * taps
        red = tl.full((block,), 1 << (bits - 1), tl.int32)
        green = red
        blue = red
        for tap in range(taps):
            at = tl.minimum(first + tap, last)  # beyond the last one the weight is 0
            byte = begin + 3 * tl.where(columns, row * source_width + at, at * source_width + column)
            weight = tl.load(weight_at + tap, mask=inside, other=0)
            red += tl.load(byte, mask=inside, other=0).to(tl.int32) * weight
            green += tl.load(byte + 1, mask=inside, other=0).to(tl.int32) * weight
            blue += tl.load(byte + 2, mask=inside, other=0).to(tl.int32) * weight
        column = tl.where(tl.load(mirrored + box) != 0, width - 1 - column, column)
        out = target + tl.load(target_starts + box) + 3 * (row * width + column)
        tl.store(out, tl.minimum(tl.maximum(red >> bits, 0), 255).to(tl.uint8), mask=inside)
        tl.store(out + 1, tl.minimum(tl.maximum(green >> bits, 0), 255).to(tl.uint8), mask=inside)
        tl.store(out + 2, tl.minimum(tl.maximum(blue >> bits, 0), 255).to(tl.uint8), mask=inside)


def resample(source: Boxes, target: Boxes, taps: Taps, by_columns: Tensor, mirrored: Tensor, largest: int) -> None:
    """As `loaders.device.passes.resample`, on the current stream."""
    with torch.cuda.device_of(source.pixels):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current device
        _resample[(len(source.starts), triton.cdiv(largest, _BLOCK))](
            source.pixels,
            target.pixels,
            *source[1:],
            *target[1:],
            taps.firsts,
            taps.weights,
            by_columns,
            mirrored,
            taps.firsts.shape[1],
            taps.weights.shape[2],
            bits=BITS,
            block=_BLOCK,
        )
