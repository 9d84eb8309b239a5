"""Weights of Pillow's antialiased resize, for many lengths at once, on any device.

Source: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c. In float64 and in its order of
operations, so that the weights are the same numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SUPPORTS = {"bilinear": 1.0, "bicubic": 2.0}  # in pixels, of a filter that makes nothing smaller
BITS = 22  # of a weight's fraction


class Taps(NamedTuple):
    """Which pixels an output is summed up from.

    Attributes:
        firsts: (n, size) int32, the first one of each output.
        weights: (n, size, taps) int32, of it and of those that follow, 2**22 in all; 0 beyond the last one.
    """

    firsts: Tensor
    weights: Tensor


def most_taps(length: int, size: int, interpolation: str) -> int:
    """How many pixels an output may be summed up from, where `length` of them become `size`."""
    return 2 * math.ceil(SUPPORTS[interpolation] * max(length / size, 1.0)) + 1


def taps_of(lengths: Tensor, sides: Tensor, size: int, interpolation: str, most: int) -> Taps:
    """The taps of `sides` outputs from `lengths` pixels.

    Args:
        lengths: (n,) integers.
        sides: (n,) integers, at most `size`; what a row holds beyond is of no use.
        size: the largest side.
        interpolation: of SUPPORTS.
        most: largest of `most_taps`.
    """
    length = lengths.to(torch.float64)[:, None]
    scale = length / sides.to(torch.float64)[:, None]
    stretch = scale.clamp(min=1.0)
    support = SUPPORTS[interpolation] * stretch
    centre = (torch.arange(size, dtype=torch.float64, device=lengths.device) + 0.5) * scale
    first = (centre - support + 0.5).trunc().clamp(min=0.0)
    end = torch.minimum((centre + support + 0.5).trunc(), length)
    step = torch.arange(most, dtype=torch.float64, device=lengths.device)
    at = (step + first[..., None] - centre[..., None] + 0.5) * (1.0 / stretch)[..., None]
    weights = _VALUES[interpolation](at.abs()) * (step < (end - first)[..., None])
    total = weights[..., 0].clone()
    for tap in range(1, most):  # one after another, as Pillow sums: floats depend on it
        total += weights[..., tap]
    weights = weights / total[..., None] * (1 << BITS)
    rounded = (weights + torch.where(weights < 0, -0.5, 0.5)).trunc()
    return Taps(first.to(torch.int32), rounded.to(torch.int32))


def _bilinear(x: Tensor) -> Tensor:
    return (1.0 - x).clamp(min=0.0)


def _bicubic(x: Tensor) -> Tensor:
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


_VALUES = {"bilinear": _bilinear, "bicubic": _bicubic}
