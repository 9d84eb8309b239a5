"""Augmentation by the kernels: the same result as `Augment`'s plain torch, in one read and one write of a batch.

A policy of more than two operations takes a read and a write more for every two.

`augmented` and `operated` start the same kernels whatever the draws, so a CUDA graph can hold them; making a
`DeviceTable` and a `DeviceFinish` brings draws from the host, and must stay outside of one. To replay a graph on other
draws, copy their tensors into those that it was captured with, for draws of the same policy and as many samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from loaders.augment import kernels
from loaders.augment.finishing import Finish
from loaders.augment.kinds import BILINEAR, BLUR, IDENTITY
from loaders.augment.table import Table
from loaders.augment.upload import upload_all
from loaders.errors import InputError

BLOCK = 256  # pixels of a program: more take so many registers that few programs fit on a processor
MAX_PIXELS = (2**31 - 1) // 255  # of an image, whose luma is summed in 32 bits
_PAIR = 2  # operations of a pass


class DeviceTable(NamedTuple):
    """A `Table` in the device's memory, in pairs of operations.

    Attributes:
        kinds: (pairs, B, 2) int32.
        parameters: (pairs, B, 2, NUM_PARAMETERS) float32.
        fill: (3,) uint8.
        interpolated: whether the policy's space has operations that interpolate: a constant of the kernels.
        blurs: likewise for those that blur.
    """

    kinds: Tensor
    parameters: Tensor
    fill: Tensor
    interpolated: bool
    blurs: bool

    @classmethod
    def of(cls, table: Table, device: torch.device) -> DeviceTable:
        """Uploads a table in one copy, without waiting for the work that is queued there."""
        count, num_ops = table.kinds.shape
        pairs = -(-num_ops // _PAIR)
        kinds = np.full((count, pairs * _PAIR), IDENTITY, dtype=np.int32)
        parameters = np.zeros((count, pairs * _PAIR, table.parameters.shape[2]), dtype=np.float32)
        kinds[:, :num_ops], parameters[:, :num_ops] = table.kinds, table.parameters
        in_pairs = _in_pairs(kinds, pairs), _in_pairs(parameters, pairs)
        on_device = upload_all((*in_pairs, np.array(table.fill, dtype=np.uint8)), device)
        return cls(on_device[0], on_device[1], on_device[2], BILINEAR in table.possible, BLUR in table.possible)


class DeviceFinish(NamedTuple):
    """A `Finish` in the device's memory."""

    erased: Tensor
    colours: Tensor
    mixing: Tensor
    weights: Tensor

    @classmethod
    def of(cls, finish: Finish, device: torch.device) -> DeviceFinish:
        """Uploads it in one copy, without waiting for the work that is queued there."""
        return cls(*upload_all(finish, device))


def operated(images: Tensor, table: DeviceTable) -> Tensor:
    """The images after their operations.

    Args:
        images: (B, H, W, 3) uint8 in one piece.
        table: of these B samples.

    Returns:
        (B, H, W, 3) uint8.

    Raises:
        InputError: if an image has more than `MAX_PIXELS`.
    """
    _check_size(images)
    with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]  # Triton starts kernels on the current device
        for pair in range(len(table.kinds)):
            images = _operated(images, table, pair)
        return images


def augmented(
    images: Tensor,
    table: DeviceTable | None,
    finish: DeviceFinish,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype,
    *,
    has_erase: bool,
    has_mix: bool,
) -> Tensor:
    """The augmented, normalised, erased and mixed images. What is started does not depend on the draws.

    Args:
        images: (B, H, W, 3) uint8 in one piece.
        table: of these B samples; None: they have no operations.
        finish: of these B samples.
        mean: (3,) float32, of each channel's values from 0 to 255.
        std: likewise.
        dtype: of the result.
        has_erase: whether any box may be erased.
        has_mix: whether any sample may be mixed.

    Returns:
        (B, 3, H, W) of `dtype`, channels_last.

    Raises:
        InputError: if an image has more than `MAX_PIXELS`.
    """
    _check_size(images)
    with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]
        last = 0
        if table is not None:
            last = len(table.kinds) - 1
            for pair in range(last):
                images = _operated(images, table, pair)
        prepared = _prepared(images, table, last)
        _, height, width, _ = images.shape
        out = torch.empty(images.shape, dtype=dtype, device=images.device)
        kernels.finish[_grid(images)](
            images,
            out,
            *prepared,
            *finish,
            mean,
            std,
            height,
            width,
            has_ops=table is not None,
            has_erase=has_erase,
            has_mix=has_mix,
            **_constants(table),
        )
        return out.permute(0, 3, 1, 2)


def _check_size(images: Tensor) -> None:
    _, height, width, _ = images.shape
    if height * width > MAX_PIXELS:
        raise InputError(
            f"Augmentation on a card was given {height}x{width} images: give at most {MAX_PIXELS:,} pixels each, or "
            "keep the images on the CPU."
        )


def _operated(images: Tensor, table: DeviceTable, pair: int) -> Tensor:
    out = torch.empty_like(images)
    _, height, width, _ = images.shape
    prepared = _prepared(images, table, pair)
    kernels.operate[_grid(images)](images, out, *prepared, height, width, **_constants(table))
    return out


def _prepared(images: Tensor, table: DeviceTable | None, pair: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kinds and parameters of two operations, their tables of values, and the fill."""
    count, height, width, _ = images.shape
    if table is None:
        return (images,) * 4  # which nothing reads
    kinds, parameters = table.kinds[pair], table.parameters[pair]
    tables = torch.empty((count, _PAIR, 3, 256), dtype=torch.uint8, device=images.device)
    # Of both operations at once, so that memory is zeroed once.
    counts = torch.zeros((_PAIR, count, 769), dtype=torch.int32, device=images.device)
    for slot in range(_PAIR):
        kernels.count[_grid(images, kernels.PARTS.value)](
            images, kinds, parameters, tables, table.fill, counts[slot], height, width, slot=slot, **_constants(table)
        )
        kernels.tabulate[(count,)](
            kinds, parameters, tables, counts[slot], height, width, slot=slot, enable_fp_fusion=False
        )
    return kinds, parameters, tables, table.fill


def _grid(images: Tensor, parts: int = 1) -> tuple[int, int]:
    """Programs of all samples, each of so many blocks."""
    count, height, width, _ = images.shape
    return count, triton.cdiv(height * width, BLOCK * parts)


def _constants(table: DeviceTable | None) -> dict[str, Any]:
    return {
        "block": BLOCK,
        "interpolated": table is not None and table.interpolated,
        "blurs": table is not None and table.blurs,
        "enable_fp_fusion": False,
    }


def _in_pairs(array: np.ndarray[Any, Any], pairs: int) -> np.ndarray[Any, Any]:
    count, _, *rest = array.shape
    return np.ascontiguousarray(np.swapaxes(array.reshape(count, pairs, _PAIR, *rest), 0, 1))
