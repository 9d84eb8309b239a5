"""Augmentation of a batch in the CPU's memory by the compiled library: bit for bit the plain torch, without Python.

A thread takes a sample from its first operation to its last, so that it stays in the core's cache. A process keeps up
to 256 MiB of uint8 results and as much of float32 ones for the next batches, as `loaders.memory.ReusedArrays` says.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.augment.finishing import Finish
from loaders.augment.table import Table
from loaders.memory import ReusedArrays
from loaders.native.handle import Handle
from loaders.native.library import library, why_missing

_KEPT = 4  # results whose memory is used again: of a loader's batches as many are under way
_LIMIT = 2**28  # bytes of them, of either type: three batches of 128 at 224 pixels in float32
_outputs, _outputs_of_floats = ReusedArrays(_KEPT, _LIMIT), ReusedArrays(_KEPT, _LIMIT)
_lock = threading.Lock()
_threads: dict[tuple[int, int], Handle] = {}  # by the process, because a fork copies no threads, and their number


def _renew_lock() -> None:
    # As `loaders.memory` renews its own.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def is_there() -> bool:
    """Whether the library was built."""
    return why_missing() is None


def operated(images: Tensor, table: Table) -> Tensor:
    """As `run_operations`.

    Args:
        images: (B, H, W, 3) uint8 in one piece.
        table: of these B samples.
    """
    out = _outputs.take(images.shape, np.uint8)
    count, height, width, _ = images.shape
    arrays = (table.kinds, table.parameters, np.array(table.fill, dtype=np.uint8))
    _check(
        library().twistnet_operations(
            _pool(),
            count,
            height,
            width,
            table.kinds.shape[1],
            images.data_ptr(),
            *(array.ctypes.data for array in arrays),
            out.ctypes.data,
        )
    )
    return torch.from_numpy(out)


def finished(images: Tensor, finish: Finish, mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]) -> Tensor:
    """The images normalised, erased and mixed: (B, H, W, 3) float32.

    Args:
        images: (B, H, W, 3) uint8 in one piece.
        finish: of these B samples.
        mean: (3,) float32, of each channel's values from 0 to 255.
        std: likewise.
    """
    out = _outputs_of_floats.take(images.shape, np.float32)
    count, height, width, _ = images.shape
    arrays = (mean, std, finish.erased, finish.colours, finish.mixing, finish.weights)
    _check(
        library().twistnet_finish(
            _pool(),
            count,
            height,
            width,
            images.data_ptr(),
            *(array.ctypes.data for array in arrays),
            out.ctypes.data,
        )
    )
    return torch.from_numpy(out)


def _pool() -> int:
    """Threads that live as long as the process: as many as torch would take."""
    key = os.getpid(), torch.get_num_threads()
    with _lock:
        if key not in _threads:
            _threads[key] = Handle(library().twistnet_augment_open, library().twistnet_augment_close, key[1])
        return _threads[key].address


def _check(fine: int) -> None:
    if not fine:
        raise MemoryError("augmentation ran out of memory")
