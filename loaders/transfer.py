"""From the decoder's host memory to the device: pinned buffers that are reused, and a stream of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loaders.memory import ReusedArrays

_KEPT = 8  # batches whose memory is used again


class HostBuffers:
    """uint8 (B, size, size, 3) host memory for decoders to write into.

    For a CUDA device the memory is pinned and comes back once the upload that reads it has finished. On the CPU the
    consumer gets it, and it is used again once nobody holds a tensor of it any more.
    """

    def __init__(self, batch_size: int, device: torch.device) -> None:
        self._batch_size = batch_size
        self._pinned = device.type == "cuda"
        self._free: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._arrays = ReusedArrays(_KEPT)
        self._lock = threading.Lock()  # two epochs may be under way

    def take(self, size: int) -> Tensor:
        """A buffer of that size that nobody reads or writes; those of other sizes that are free are given up."""
        shape = (self._batch_size, size, size, 3)
        if self._pinned:
            buffer = self._given_back(shape)
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True) if buffer is None else buffer
        return torch.from_numpy(self._arrays.take(shape, np.uint8))

    def give_back(self, buffer: Tensor, uploaded: torch.cuda.Event) -> None:
        """Returns a pinned buffer whose upload ends at the event."""
        with self._lock:
            self._free.append((buffer, uploaded))

    def _given_back(self, shape: tuple[int, ...]) -> Tensor | None:
        with self._lock:
            while self._free and self._free[0][0].shape != shape:
                self._free.popleft()
            if not self._free:
                return None
            buffer, uploaded = self._free.popleft()
        uploaded.synchronize()
        return buffer


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, where it is once the current stream has come there; itself where it is already."""
    return tensor.to(device, non_blocking=True)


class Handover:
    """Lets the consumer's stream use tensors that another stream made: waits for them, and keeps their memory."""

    def __init__(self, tensors: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
        self._tensors = tensors
        self._ready = stream.record_event()

    def accept(self) -> None:
        """To be called by the consumer, on its stream, before it reads the tensors."""
        current = torch.cuda.current_stream(self._tensors[0].device)
        current.wait_event(self._ready)
        for tensor in self._tensors:
            tensor.record_stream(current)
