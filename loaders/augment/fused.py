"""Augmentation by the kernels: the same result as `Augment`'s plain torch, in one read and one write of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from loaders.augment import kernels
from loaders.augment.table import NUM_OPS, Table
from loaders.augment.upload import upload

_BLOCK = 512  # pixels of a program


class DeviceTable(NamedTuple):
    """A `Table` in the device's memory."""

    kinds: Tensor
    parameters: Tensor
    mixing: Tensor
    weights: Tensor

    @classmethod
    def of(cls, table: Table, device: torch.device) -> DeviceTable:
        """Uploads a table, without waiting for the work that is queued there."""
        return cls(*(upload(array, device) for array in table))


def augmented(
    images: Tensor,
    table: DeviceTable,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    *,
    has_ops: bool,
    has_mix: bool,
) -> Tensor:
    """The augmented, normalised and mixed images. Nothing in it depends on the draws but what the kernels read.

    Args:
        images: (B, H, W, 3) uint8 in one piece.
        table: of these B samples.
        mean: (3,) float32, of each channel's values from 0 to 255.
        std: likewise.
        dtype: of the result.
        has_ops: whether there are operations at all.
        has_mix: whether any sample is mixed.

    Returns:
        (B, 3, H, W) of `dtype`, channels_last.
    """
    with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current device
        return _augmented(images, table, mean, std, dtype, has_ops, has_mix)


def _augmented(
    images: Tensor, table: DeviceTable, mean: Tensor, std: Tensor, dtype: torch.dtype, has_ops: bool, has_mix: bool
) -> Tensor:
    count, height, width, _ = images.shape
    out = torch.empty(images.shape, dtype=dtype, device=images.device)
    tables = torch.empty((count, NUM_OPS, 3, 256), dtype=torch.uint8, device=images.device)
    grid = (count, triton.cdiv(height * width, _BLOCK))
    if has_ops:
        # Of both operations at once, so that memory is zeroed once.
        counts = torch.zeros((NUM_OPS, count, 769), dtype=torch.int32, device=images.device)
        for slot in range(NUM_OPS):
            some = (table.kinds, table.parameters, tables, counts[slot], height, width)
            kernels.count[grid](images, *some, slot=slot, block=_BLOCK, enable_fp_fusion=False)
            kernels.tabulate[(count,)](*some, slot=slot, enable_fp_fusion=False)
    kernels.apply[grid](
        images,
        out,
        table.kinds,
        table.parameters,
        tables,
        table.mixing,
        table.weights,
        mean,
        std,
        height,
        width,
        has_ops=has_ops,
        has_mix=has_mix,
        block=_BLOCK,
        enable_fp_fusion=False,
    )
    return out.permute(0, 3, 1, 2)
