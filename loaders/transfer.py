"""From the decoder's host memory to the device: pinned buffers that are reused, and a stream of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor


class HostBuffers:
    """uint8 (B, size, size, 3) host memory for decoders to write into.

    On the CPU every batch gets fresh memory, since the consumer keeps it. For a CUDA device the memory is pinned and
    comes back once the upload that reads it has finished.
    """

    def __init__(self, batch_size: int, size: int, device: torch.device) -> None:
        self._shape = (batch_size, size, size, 3)
        self._pinned = device.type == "cuda"
        self._free: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def take(self) -> Tensor:
        """A buffer that nobody reads or writes."""
        if self._free:
            buffer, uploaded = self._free.popleft()
            uploaded.synchronize()
            return buffer
        return torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned)

    def give_back(self, buffer: Tensor, uploaded: torch.cuda.Event) -> None:
        """Returns a pinned buffer whose upload ends at the event."""
        self._free.append((buffer, uploaded))


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
