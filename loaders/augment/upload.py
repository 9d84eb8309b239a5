"""Small host arrays, brought to the device of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes: Triton compiles a kernel once more for pointers of less


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """`upload_all` of one array."""
    return upload_all((array,), device)[0]


def upload_all(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Tensors of the arrays on `device`; to a card in one copy, without waiting for the work that is queued there.

    In the CPU's memory a tensor shares that of its array; elsewhere the arrays may go at once.
    """
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cuda":
        return _in_one_copy(tensors, device)
    return [tensor.to(device) for tensor in tensors]


def _in_one_copy(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    # Pinned, because the driver may wait to stage pageable memory. torch gives a pinned block out again only after the
    # event that it records behind the copy, so this one can be dropped at once.
    packed = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, start in zip(tensors, starts, strict=True):
        _part(packed, start, tensor).copy_(tensor)
    arrived = packed.to(device, non_blocking=True)
    return [_part(arrived, start, tensor) for tensor, start in zip(tensors, starts, strict=True)]


def _part(packed: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes from `start` on as a tensor of the type and shape of another."""
    return packed[start : start + like.nbytes].view(like.dtype).view(like.shape)
