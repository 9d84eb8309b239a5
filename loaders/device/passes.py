"""One pass of Pillow's resize over boxes of any sizes, by plain torch: rows become shorter, or fewer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loaders.device.taps import BITS, Taps

_AT_ONCE = 1 << 22  # bytes of the output: their indices take eight times as many


class Boxes(NamedTuple):
    """Boxes of three-channel pixels, each in rows without gaps, anywhere in one piece of memory.

    Attributes:
        pixels: (bytes,) uint8.
        starts: (n,) int64 first byte of each.
        heights: (n,) int64.
        widths: (n,) int64.
    """

    pixels: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor


def resample(source: Boxes, target: Boxes, taps: Taps, by_columns: Tensor, mirrored: Tensor, largest: int) -> None:
    """Writes `target.pixels`.

    Args:
        source: what is resampled.
        target: where each box goes, with its height or width changed.
        taps: of that height or width.
        by_columns: (n,) bool, whether it is the width.
        mirrored: (n,) bool, whether the columns of the target are turned round.
        largest: pixels of the largest target.
    """
    step = max(1, _AT_ONCE // (3 * largest))
    for begin in range(0, len(source.starts), step):
        part = slice(begin, begin + step)
        _resample(
            Boxes(source.pixels, *(each[part] for each in source[1:])),
            Boxes(target.pixels, *(each[part] for each in target[1:])),
            Taps(taps.firsts[part], taps.weights[part]),
            by_columns[part, None],
            mirrored[part, None],
        )


def _resample(source: Boxes, target: Boxes, taps: Taps, by_columns: Tensor, mirrored: Tensor) -> None:
    widths = target.widths[:, None]
    pixels = target.heights[:, None] * widths
    place = torch.arange(int(pixels.max()), device=pixels.device).expand(len(pixels), -1)
    row, column = place // widths, place % widths
    along = torch.where(by_columns, column, row).clamp(max=taps.firsts.shape[1] - 1)  # beyond the last pixel: any
    first = taps.firsts.gather(1, along).to(torch.int64)
    last = torch.where(by_columns, source.widths[:, None], source.heights[:, None]) - 1
    channels = torch.arange(3, device=pixels.device)
    is_pixel = place < pixels
    total = torch.full((*place.shape, 3), 1 << (BITS - 1), dtype=torch.int32, device=pixels.device)
    for tap in range(taps.weights.shape[2]):
        at = torch.minimum(first + tap, last)  # beyond the last one the weight is 0
        pixel = torch.where(by_columns, row * source.widths[:, None] + at, at * source.widths[:, None] + column)
        byte = torch.where(is_pixel, source.starts[:, None] + 3 * pixel, 0)[..., None] + channels
        total += source.pixels[byte].to(torch.int32) * taps.weights[..., tap].gather(1, along)[..., None]
    column = torch.where(mirrored, widths - 1 - column, column)
    byte = (target.starts[:, None] + 3 * (row * widths + column))[..., None] + channels
    target.pixels[byte[is_pixel]] = (total >> BITS).clamp(0, 255).to(torch.uint8)[is_pixel]
