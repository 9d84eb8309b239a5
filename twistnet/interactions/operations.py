"""The two operations as torch's own: differentiable once, opaque to `torch.compile`, with kernels chosen by device.

    z -> interactions -> products, their means and mean squares
                         means -> attention and normalisation, a few numbers a sample -> scale, shift
         products, scale, shift -> scale_shift -> what is projected

Attention weighs a channel of a sample by one number, and group norm subtracts and multiplies by one number a sample and
group: together they are a scale and a shift for each sample and channel, which follow from the first two moments of the
products. So nothing but the products themselves and the scaled ones is ever written out.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from twistnet.interactions import on_cpu
from twistnet.interactions.pairs import HEAD_CHANNELS, INTERACTION_CHANNELS

# Kinds of devices that the operations work on here, settled once: a compiled model may not ask the disk.
DEVICES = frozenset(
    name
    for name, is_there in {
        "cpu": on_cpu.why_missing() is None,
        "cuda": importlib.util.find_spec("triton") is not None,
    }.items()
    if is_there
)


def interactions(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Twists, normalises and multiplies the channels of every head.

    A head's 8 channels z are convolved with its kernels, both are divided by their norm over the 8 channels (at least
    1e-6), and z is followed by the products z[i] * twisted[j] for i <= j.

    Args:
        z: (B, 8 * num_heads, H, W) float, any memory format.
        kernels: (8 * num_heads, 1, 3, 3) of a depthwise convolution with one pixel of padding.

    Returns:
        The products, (B, 44 * num_heads, H, W) of z's dtype in channels_last; and their means and mean squares over the
        pixels, (B, 44 * num_heads) of float32, or float64 where z is.

    Raises:
        ValueError: for other shapes.
    """
    channels = z.shape[1] if z.ndim == 4 else 0
    if not channels or channels % HEAD_CHANNELS or kernels.shape != (channels, 1, 3, 3):  # compiled code trusts them
        raise ValueError(
            f"z {tuple(z.shape)} and kernels {tuple(kernels.shape)} are not (B, 8n, H, W) and (8n, 1, 3, 3)"
        )
    products, mean, mean_square = torch.ops.twistnet.interactions(z, kernels)
    return products, mean, mean_square


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift, with a scale and a shift for each sample and channel.

    Args:
        x: (B, C, H, W) float.
        scale: (B, C) float.
        shift: (B, C) float.

    Returns:
        (B, C, H, W) of x's dtype in channels_last, rounded once.

    Raises:
        ValueError: for other shapes.
    """
    if x.ndim != 4 or not scale.shape == shift.shape == x.shape[:2]:
        raise ValueError(
            f"scale {tuple(scale.shape)} and shift {tuple(shift.shape)} are not those of x {tuple(x.shape)}"
        )
    out: Tensor = torch.ops.twistnet.scale_shift(x, scale, shift)
    return out


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over tensors of this type are kept in."""
    return dtype if dtype == torch.float64 else torch.float32


def _backend(tensor: Tensor) -> ModuleType:
    if tensor.is_cuda:
        from twistnet.interactions import on_card  # Triton

        return on_card
    return on_cpu


@torch.library.custom_op(
    "twistnet::interactions", mutates_args=(), schema="(Tensor z, Tensor kernels) -> (Tensor, Tensor, Tensor)"
)
def _interactions(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _backend(z).interactions(z, kernels)
    return found


@_interactions.register_fake
def _(z: Tensor, _kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count, channels, height, width = z.shape
    channels = channels // HEAD_CHANNELS * INTERACTION_CHANNELS
    products = z.new_empty(count, channels, height, width).contiguous(memory_format=torch.channels_last)
    moments = z.new_empty(count, channels, dtype=sum_dtype(z.dtype))
    return products, moments, moments.clone()


@torch.library.custom_op(
    "twistnet::interactions_backward",
    mutates_args=(),
    schema="(Tensor z, Tensor kernels, Tensor grad, Tensor grad_mean, Tensor grad_square) -> (Tensor, Tensor)",
)
def _interactions_backward(
    z: Tensor, kernels: Tensor, grad: Tensor, grad_mean: Tensor, grad_square: Tensor
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _backend(z).interactions_backward(z, kernels, grad, grad_mean, grad_square)
    return found


@_interactions_backward.register_fake
def _(z: Tensor, kernels: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z, memory_format=torch.channels_last), torch.empty_like(kernels)


@torch.library.custom_op(
    "twistnet::scale_shift", mutates_args=(), schema="(Tensor x, Tensor scale, Tensor shift) -> Tensor"
)
def _scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    out: Tensor = _backend(x).scale_shift(x, scale, shift)
    return out


@_scale_shift.register_fake
def _(x: Tensor, _scale: Tensor, _shift: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op(
    "twistnet::scale_shift_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor scale, Tensor grad) -> (Tensor, Tensor, Tensor)",
)
def _scale_shift_backward(x: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _backend(x).scale_shift_backward(x, scale, grad)
    return found


@_scale_shift_backward.register_fake
def _(x: Tensor, scale: Tensor, _grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums = scale.new_empty(scale.shape, dtype=sum_dtype(x.dtype))
    return torch.empty_like(x, memory_format=torch.channels_last), sums, sums.clone()


def _keep_interactions(ctx: Any, inputs: tuple[Tensor, Tensor], output: Any) -> None:  # noqa: ARG001  # torch names it
    ctx.save_for_backward(*inputs)


def _differentiate_interactions(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_square: Tensor) -> Any:
    return torch.ops.twistnet.interactions_backward(*ctx.saved_tensors, grad, grad_mean, grad_square)


def _keep_scale_shift(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0], inputs[1])


def _differentiate_scale_shift(ctx: Any, grad: Tensor) -> Any:
    x, scale = ctx.saved_tensors
    return torch.ops.twistnet.scale_shift_backward(x, scale, grad)


_interactions.register_autograd(_differentiate_interactions, setup_context=_keep_interactions)
_scale_shift.register_autograd(_differentiate_scale_shift, setup_context=_keep_scale_shift)
