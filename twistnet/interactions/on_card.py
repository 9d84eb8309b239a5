"""The operations on a card, by Triton's kernels over rows of channels (channels_last).

Nothing here waits for the card or depends on values, so that CUDA graphs can hold it.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from twistnet.interactions import kernels as triton_kernels
from twistnet.interactions.pairs import HEAD_CHANNELS, INTERACTION_CHANNELS

BLOCK = 16  # pixels of a program at a time: squares of products for more of them leave too few registers
COLUMNS = 64  # channels of a program that scales


def interactions(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `operations.interactions`; the products are channels_last."""
    z, kernels = _rows(z), kernels.contiguous()
    count, channels, height, width = z.shape
    heads = channels // HEAD_CHANNELS
    products = _like(z, heads * INTERACTION_CHANNELS)
    mean = z.new_empty(count, heads * INTERACTION_CHANNELS, dtype=torch.float32)
    mean_square = torch.empty_like(mean)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current device
        triton_kernels.interactions[(count, heads)](z, kernels, products, mean, mean_square, height, width, BLOCK=BLOCK)
    return products, mean, mean_square


def interactions_backward(
    z: Tensor, kernels: Tensor, grad: Tensor, grad_mean: Tensor, grad_square: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of z, channels_last, and of the kernels. Products are made again: reading them would cost more."""
    z, grad, kernels = _rows(z), _rows(grad), kernels.contiguous()
    count, channels, height, width = z.shape
    grid = (count, channels // HEAD_CHANNELS)
    own = torch.empty_like(z, dtype=torch.float32)
    twisted, to_z = torch.empty_like(own), torch.empty_like(z)
    shares = z.new_empty(count, *kernels.shape, dtype=torch.float32)
    with torch.cuda.device_of(z):  # type: ignore[no-untyped-call]
        triton_kernels.products_backward[grid](
            z,
            kernels,
            grad,
            grad_mean.contiguous(),
            grad_square.contiguous(),
            own,
            twisted,
            height,
            width,
            BLOCK=BLOCK,
        )
        triton_kernels.twist_backward[grid](z, kernels, own, twisted, to_z, shares, height, width, BLOCK=BLOCK)
    return to_z, shares.sum(0).to(kernels.dtype)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """As `operations.scale_shift`."""
    x = _rows(x)
    count, channels, height, width = x.shape
    out = torch.empty_like(x)
    grid = (count, triton.cdiv(height * width, BLOCK), triton.cdiv(channels, COLUMNS))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        triton_kernels.scale_shift[grid](
            x,
            scale.contiguous(),
            shift.contiguous(),
            out,
            height * width,
            channels,
            BLOCK=BLOCK,
            COLUMNS=COLUMNS,
        )
    return out


def scale_shift_backward(x: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, channels_last, of the scale and of the shift."""
    x, grad = _rows(x), _rows(grad)
    count, channels, height, width = x.shape
    to_x = torch.empty_like(x)
    to_scale = x.new_empty(count, channels, dtype=torch.float32)
    to_shift = torch.empty_like(to_scale)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        triton_kernels.scale_shift_backward[(count, triton.cdiv(channels, COLUMNS))](
            x,
            scale.contiguous(),
            grad,
            to_x,
            to_scale,
            to_shift,
            height * width,
            channels,
            BLOCK=BLOCK,
            COLUMNS=COLUMNS,
        )
    return to_x, to_scale, to_shift


def _rows(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _like(z: Tensor, channels: int) -> Tensor:
    count, _, height, width = z.shape
    return torch.empty(
        (count, channels, height, width), dtype=z.dtype, device=z.device, memory_format=torch.channels_last
    )
