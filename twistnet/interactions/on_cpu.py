"""The operations on a CPU, by the compiled library over rows of channels (channels_last).

Half precision is computed in float32 and rounded once.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twistnet.interactions.pairs import HEAD_CHANNELS, INTERACTION_CHANNELS


class _Batch(ctypes.Structure):
    """As interactions.cpp has it."""

    _fields_ = [(name, ctypes.c_int64) for name in ("count", "height", "width", "channels", "threads")]


@functools.cache
def why_missing() -> str | None:
    """What keeps the library from being used; None where it is there."""
    try:
        _library()
    except OSError as error:
        return str(error)
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    found = sorted(Path(__file__).parent.glob("_interactions*.so"))
    if not found:
        raise OSError("the compiled interactions were not built: install g++, then twistnet again")
    opened = ctypes.CDLL(str(found[0]))
    for name, tensors in (("interactions", 6), ("interactions_backward", 8), ("scale_backward", 6)):
        for kind in ("float", "double"):
            function = getattr(opened, f"twistnet_{name}_{kind}")
            function.argtypes = [ctypes.POINTER(_Batch), *[ctypes.c_void_p] * tensors]
            function.restype = None
    return opened


def interactions(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `operations.interactions`; the products are channels_last."""
    rows, kernels = _rows(z), _single(kernels)
    channels = z.shape[1] // HEAD_CHANNELS * INTERACTION_CHANNELS
    products = rows.new_empty(len(z), *z.shape[2:], channels).permute(0, 3, 1, 2)
    mean = rows.new_empty(len(z), channels)
    mean_square = torch.empty_like(mean)
    _call("interactions", z.shape, rows, kernels, products, mean, mean_square, _scratch(rows, 1))
    return products.to(z.dtype), mean, mean_square


def interactions_backward(
    z: Tensor, kernels: Tensor, grad: Tensor, grad_mean: Tensor, grad_square: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of z, channels_last, and of the kernels."""
    rows, whole = _rows(z), _single(kernels)
    to_z, shares = torch.empty_like(rows), rows.new_empty(len(z), *kernels.shape)
    grads = _rows(grad), grad_mean.contiguous(), grad_square.contiguous()
    _call("interactions_backward", z.shape, rows, whole, *grads, to_z, shares, _scratch(rows, 3))
    return to_z.to(z.dtype), shares.sum(0).to(kernels.dtype)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """As `operations.scale_shift`."""
    return torch.addcmul(shift[:, :, None, None], _rows(x), scale[:, :, None, None]).to(x.dtype)


def scale_shift_backward(x: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, channels_last, of the scale and of the shift."""
    rows = _rows(x)
    to_x, to_scale = torch.empty_like(rows), rows.new_empty(scale.shape)  # not as strided as the scale
    to_shift = torch.empty_like(to_scale)
    _call("scale_backward", x.shape, rows, scale.contiguous(), _rows(grad), to_x, to_scale, to_shift)
    return to_x.to(x.dtype), to_scale, to_shift


def _call(name: str, shape: torch.Size, *tensors: Tensor) -> None:
    kinds: dict[torch.dtype, str] = {torch.float32: "float", torch.float64: "double"}
    (kind,) = {kinds[tensor.dtype] for tensor in tensors}  # a KeyError or ValueError is a defect of the caller
    count, channels, height, width = shape
    function: Any = getattr(_library(), f"twistnet_{name}_{kind}")
    batch = _Batch(count, height, width, channels, torch.get_num_threads())
    function(batch, *(tensor.data_ptr() for tensor in tensors))


def _scratch(rows: Tensor, frames: int) -> Tensor:
    """Frames of a head's channels, with a pixel of padding, for each thread."""
    height, width = rows.shape[2:]
    return rows.new_empty(torch.get_num_threads() * frames * (height + 2) * (width + 2) * HEAD_CHANNELS)


def _rows(x: Tensor) -> Tensor:
    return _single(x, torch.channels_last)


def _single(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """In one piece, and in float32 where it was half precision."""
    return x.to(torch.float32 if x.dtype.itemsize < 4 else x.dtype).contiguous(memory_format=memory_format)
