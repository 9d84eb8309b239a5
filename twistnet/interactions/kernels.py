"""Triton's kernels of interactions and their gradients: rows of channels in any float type, computed in float32.

A program takes one head of one sample, so that its sums over the pixels need no other program. Products of 8 channels
with 8 are made as a square, of which the half i <= j counts.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from twistnet.interactions.pairs import EPS, HEAD_CHANNELS, INTERACTION_CHANNELS

_EPS = tl.constexpr(EPS)
_CHANNELS = tl.constexpr(HEAD_CHANNELS)
_PRODUCTS = tl.constexpr(INTERACTION_CHANNELS)
_TAPS = tl.constexpr(9)


@triton.jit
def _neighbours(image, pixels, tap: tl.constexpr, sign: tl.constexpr, stride, height, width):
    """(BLOCK, 8): the channels one step of the tap, or one step against it, from each pixel; 0 outside the image."""
    down: tl.constexpr = (tap // 3 - 1) * sign
    right: tl.constexpr = (tap % 3 - 1) * sign
    rows, columns = pixels // width + down, pixels % width + right
    inside = (pixels < height * width) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    offsets = (pixels + down * width + right)[:, None] * stride + tl.arange(0, _CHANNELS)[None, :]
    return tl.load(image + offsets, mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _unit(x):
    """Rows divided by their norm, and what they were multiplied by."""
    inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), _EPS)
    return x * inverse[:, None], inverse


@triton.jit
def _pair(image, kernels, pixels, stride, height, width):
    """Channels and twisted channels of a head, both normalised, each followed by what it was multiplied by."""
    channels = tl.arange(0, _CHANNELS)
    first, first_inverse = _unit(_neighbours(image, pixels, 4, 1, stride, height, width))
    twisted = tl.zeros_like(first)
    for tap in tl.static_range(_TAPS):
        weight = tl.load(kernels + channels * _TAPS + tap).to(tl.float32)
        twisted += weight[None, :] * _neighbours(image, pixels, tap, 1, stride, height, width)
    second, second_inverse = _unit(twisted)
    return first, first_inverse, second, second_inverse


@triton.jit
def _places():
    """(8, 8): where the product of channels i and j stands among a head's, and whether it counts."""
    i, j = tl.arange(0, _CHANNELS)[:, None], tl.arange(0, _CHANNELS)[None, :]
    return i * _CHANNELS - i * (i - 1) // 2 + j - i + _CHANNELS, j >= i


@triton.jit
def interactions(z, kernels, products, means, squares, height, width, BLOCK: tl.constexpr):
    """Grid (B, num_heads). z: (B, H * W, 8 * num_heads); products: (B, H * W, 44 * num_heads).

    means, squares: (B, 44 * num_heads) float32.
    """
    sample, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    pixels = height * width
    channels = tl.arange(0, _CHANNELS)
    places, counts = _places()
    image = z + sample * pixels * heads * _CHANNELS + head * _CHANNELS
    out = products + sample * pixels * heads * _PRODUCTS + head * _PRODUCTS
    sum_first = tl.zeros([_CHANNELS], dtype=tl.float32)
    sum_first_square = tl.zeros([_CHANNELS], dtype=tl.float32)
    sum_both = tl.zeros([_CHANNELS, _CHANNELS], dtype=tl.float32)
    sum_both_square = tl.zeros([_CHANNELS, _CHANNELS], dtype=tl.float32)
    for start in range(0, pixels, BLOCK):
        block = start + tl.arange(0, BLOCK)
        inside = block < pixels
        first, _, second, _ = _pair(image, kernels + head * _CHANNELS * _TAPS, block, heads * _CHANNELS, height, width)
        both = first[:, :, None] * second[:, None, :]
        rows = block * heads * _PRODUCTS
        tl.store(out + rows[:, None] + channels[None, :], first, mask=inside[:, None])
        tl.store(out + rows[:, None, None] + places[None, :, :], both, mask=inside[:, None, None] & counts[None, :, :])
        sum_first += tl.sum(first, axis=0)
        sum_first_square += tl.sum(first * first, axis=0)
        sum_both += tl.sum(both, axis=0)
        sum_both_square += tl.sum(both * both, axis=0)
    moments = sample * heads * _PRODUCTS + head * _PRODUCTS
    tl.store(means + moments + channels, sum_first / pixels)
    tl.store(squares + moments + channels, sum_first_square / pixels)
    tl.store(means + moments + places, sum_both / pixels, mask=counts)
    tl.store(squares + moments + places, sum_both_square / pixels, mask=counts)


@triton.jit
def _before_norm(grad, unit, inverse):
    """The gradient before a division by the norm; below the least norm the divisor is a constant."""
    along = tl.where(inverse < 1.0 / _EPS, tl.sum(grad * unit, axis=1), 0.0)
    return (grad - along[:, None] * unit) * inverse[:, None]


@triton.jit
def products_backward(
    z, kernels, grad, grad_means, grad_squares, to_own, to_twisted, height, width, BLOCK: tl.constexpr
):
    """Grid (B, num_heads). grad: as products; to_own, to_twisted: as z in float32, what reaches z and its twist."""
    sample, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    pixels = height * width
    channels = tl.arange(0, _CHANNELS)
    places, counts = _places()
    image = z + sample * pixels * heads * _CHANNELS + head * _CHANNELS
    grads = grad + sample * pixels * heads * _PRODUCTS + head * _PRODUCTS
    moments = sample * heads * _PRODUCTS + head * _PRODUCTS
    mean_first = tl.load(grad_means + moments + channels).to(tl.float32) / pixels
    square_first = tl.load(grad_squares + moments + channels).to(tl.float32) * 2.0 / pixels
    mean_both = tl.load(grad_means + moments + places, mask=counts, other=0.0).to(tl.float32) / pixels
    square_both = tl.load(grad_squares + moments + places, mask=counts, other=0.0).to(tl.float32) * 2.0 / pixels
    for start in range(0, pixels, BLOCK):
        block = start + tl.arange(0, BLOCK)
        inside = block < pixels
        first, first_inverse, second, second_inverse = _pair(
            image, kernels + head * _CHANNELS * _TAPS, block, heads * _CHANNELS, height, width
        )
        rows = block * heads * _PRODUCTS
        own = tl.load(grads + rows[:, None] + channels[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        own += mean_first[None, :] + square_first[None, :] * first
        there = inside[:, None, None] & counts[None, :, :]
        both = tl.load(grads + rows[:, None, None] + places[None, :, :], mask=there, other=0.0).to(tl.float32)
        both += mean_both[None, :, :] + square_both[None, :, :] * first[:, :, None] * second[:, None, :]
        to_first = own + tl.sum(both * second[:, None, :], axis=2)
        to_second = tl.sum(both * first[:, :, None], axis=1)
        offsets = sample * pixels * heads * _CHANNELS + block[:, None] * heads * _CHANNELS + head * _CHANNELS
        offsets += channels[None, :]
        tl.store(to_own + offsets, _before_norm(to_first, first, first_inverse), mask=inside[:, None])
        tl.store(to_twisted + offsets, _before_norm(to_second, second, second_inverse), mask=inside[:, None])


@triton.jit
def twist_backward(z, kernels, to_own, to_twisted, to_z, to_kernels, height, width, BLOCK: tl.constexpr):
    """Grid (B, num_heads). to_z: as z; to_kernels: (B, 8 * num_heads, 9) float32, each sample's share."""
    sample, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    pixels = height * width
    stride = heads * _CHANNELS
    channels = tl.arange(0, _CHANNELS)
    base = sample * pixels * stride + head * _CHANNELS
    rows = tl.arange(0, 16)  # taps, filled up to a power of two
    shares = tl.zeros([16, _CHANNELS], dtype=tl.float32)
    for start in range(0, pixels, BLOCK):
        block = start + tl.arange(0, BLOCK)
        here = _neighbours(to_twisted + base, block, 4, 1, stride, height, width)
        total = _neighbours(to_own + base, block, 4, 1, stride, height, width)
        for tap in tl.static_range(_TAPS):
            weight = tl.load(kernels + (head * _CHANNELS + channels) * _TAPS + tap).to(tl.float32)
            # A pixel was seen by those that lie against the tap from it.
            total += weight[None, :] * _neighbours(to_twisted + base, block, tap, -1, stride, height, width)
            share = tl.sum(here * _neighbours(z + base, block, tap, 1, stride, height, width), axis=0)
            shares += tl.where(rows[:, None] == tap, share[None, :], 0.0)
        tl.store(
            to_z + base + block[:, None] * stride + channels[None, :], total, mask=(block < height * width)[:, None]
        )
    where = ((sample * heads + head) * _CHANNELS + channels[None, :]) * _TAPS + rows[:, None]
    tl.store(to_kernels + where, shares, mask=rows[:, None] < _TAPS)


@triton.jit
def scale_shift(x, scale, shift, out, pixels, channels, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """Grid (B, blocks of pixels, blocks of channels). x, out: (B, pixels, channels); scale, shift: (B, channels)."""
    sample = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < channels
    factors = tl.load(scale + sample * channels + columns, mask=inside).to(tl.float32)
    summands = tl.load(shift + sample * channels + columns, mask=inside).to(tl.float32)
    offsets = sample * pixels * channels + block[:, None] * channels + columns[None, :]
    there = (block < pixels)[:, None] & inside[None, :]
    values = tl.load(x + offsets, mask=there).to(tl.float32)
    tl.store(out + offsets, values * factors[None, :] + summands[None, :], mask=there)


@triton.jit
def scale_shift_backward(
    x, scale, grad, to_x, to_scale, to_shift, pixels, channels, BLOCK: tl.constexpr, COLUMNS: tl.constexpr
):
    """Grid (B, blocks of channels). grad, to_x: as x; to_scale, to_shift: (B, channels) float32."""
    sample = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < channels
    factors = tl.load(scale + sample * channels + columns, mask=inside).to(tl.float32)
    sum_scale = tl.zeros([COLUMNS], dtype=tl.float32)
    sum_shift = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(0, pixels, BLOCK):
        block = start + tl.arange(0, BLOCK)
        offsets = sample * pixels * channels + block[:, None] * channels + columns[None, :]
        there = (block < pixels)[:, None] & inside[None, :]
        grads = tl.load(grad + offsets, mask=there, other=0.0).to(tl.float32)
        values = tl.load(x + offsets, mask=there, other=0.0).to(tl.float32)
        tl.store(to_x + offsets, grads * factors[None, :], mask=there)
        sum_scale += tl.sum(grads * values, axis=0)
        sum_shift += tl.sum(grads, axis=0)
    tl.store(to_scale + sample * channels + columns, sum_scale, mask=inside)
    tl.store(to_shift + sample * channels + columns, sum_shift, mask=inside)
