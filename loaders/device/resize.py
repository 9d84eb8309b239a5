"""Pillow's antialiased resize of boxes of any sizes to one size, on the device where they lie, bit for bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.device import passes
from loaders.device.passes import Boxes
from loaders.device.taps import Taps, most_taps, taps_of

_Ints = npt.NDArray[np.int64]


def resize(
    pixels: Tensor, starts: _Ints, sizes: _Ints, flips: npt.NDArray[np.bool_], out: Tensor, interpolation: str
) -> None:
    """Resizes boxes and mirrors them where asked.

    Each pass rounds to 8 bits, as Pillow's do, and the one that Pillow 13 begins with comes first. On a card it is a
    kernel for each pass, on the current stream; elsewhere plain torch.

    Args:
        pixels: (bytes,) uint8, in which each box lies in rows of three-channel pixels without gaps.
        starts: (n,) first byte of each.
        sizes: (n, 2) heights and widths in pixels.
        flips: (n,) whether to mirror left to right.
        out: (n, height, width, 3) uint8 in one piece, on the same device.
        interpolation: "bilinear" or "bicubic".
    """
    height, width = out.shape[1:3]
    # Pillow 13 begins with the columns of pixels, top to bottom, where a box loses far more rows than columns.
    rows_first = sizes[:, 0] - height <= 2 * np.maximum(sizes[:, 1] - width, 0)
    between = np.where(rows_first[:, None], [0, width], [height, 0])
    between = np.where(between == 0, sizes, between)
    lengths = 3 * between.prod(axis=1)
    whole = np.full(len(sizes), height * width * 3)
    table = (starts, *sizes.T, np.cumsum(lengths) - lengths, *between.T, np.cumsum(whole) - whole, rows_first, flips)
    on_device = torch.from_numpy(np.stack(table).astype(np.int64)).to(pixels.device)
    source = Boxes(pixels, *on_device[:3])
    half = Boxes(torch.empty(int(lengths.sum()), dtype=torch.uint8, device=pixels.device), *on_device[3:6])
    sides = torch.full_like(on_device[:2], height)
    sides[1] = width
    target = Boxes(out.view(-1), on_device[6], *sides)
    by_width, mirrored = on_device[7:].bool()
    resample = _resample_on(pixels.device)

    def taps(by_columns: Tensor) -> Taps:
        most = max(
            most_taps(int(length), side, interpolation)
            for length, side in zip(sizes.max(axis=0), (height, width), strict=True)
        )
        of, to = (torch.where(by_columns, each.widths, each.heights) for each in (source, target))
        return taps_of(of, to, max(height, width), interpolation, most)

    never = torch.zeros_like(mirrored)
    resample(source, half, taps(by_width), by_width, never, int(between.prod(axis=1).max()))
    resample(half, target, taps(~by_width), ~by_width, mirrored, height * width)


def _resample_on(device: torch.device) -> Callable[..., None]:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return passes.resample
    from loaders.device import kernels

    return kernels.resample
