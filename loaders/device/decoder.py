"""The `device` decoder: raw pixels are cropped, resized and mirrored where the batch is needed.

    boxes of raw pixels    copied by the native library's threads -> upload -> two passes, bit for bit Pillow's
    all else               the native decoder -> upload

So a sample costs the CPU a copy of its box. Without a card the same passes run in plain torch, which is slower than the
native decoder: for tests.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.device.resize import resize
from loaders.encodings import Encoded
from loaders.headers import GONE
from loaders.native.decoder import NativeDecoder
from loaders.native.library import IS_DONE, IS_FOR_ANOTHER, IS_GONE
from loaders.native.packing import Packer, starts_of
from loaders.request import Request
from loaders.types import Failures

_Ints = npt.NDArray[np.int64]
_Pixels = npt.NDArray[np.uint8]


class DeviceDecoder:
    """Equal to the reference decoder's pixels with Pillow 13, in the device's memory.

    Args:
        interpolation: "bilinear" or "bicubic", both antialiased.
        num_threads: threads that copy, and as many that decode what is not raw.
        device: where the pixels are made.

    Raises:
        InputError: for another interpolation, or where the native library was not built.
    """

    name = "device"

    def __init__(self, interpolation: str, num_threads: int, device: torch.device) -> None:
        self._native = NativeDecoder(interpolation, num_threads)
        self._interpolation, self._device = interpolation, device
        self.on_device = device.type == "cuda"
        self._packer = Packer(num_threads)
        self._idle: queue.LifoQueue[Tensor] = queue.LifoQueue()

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""
        self._packer.close()
        self._native.close()

    def shares(self) -> Mapping[str, float]:
        return {}

    def sizes(self, data: Sequence[Encoded]) -> tuple[_Ints, Failures]:
        return self._native.sizes(data)

    def decode(
        self,
        data: Sequence[Encoded],
        boxes: _Ints,
        flips: npt.NDArray[np.bool_],
        out: _Pixels | Tensor,
        counts: _Ints | None = None,
    ) -> Failures:
        request = Request.of(data, boxes, flips, out, counts)
        is_raw = request.images.shapes[:, 0] > 0
        raw = np.flatnonzero(is_raw)
        done = self._resize(request, raw)
        gone = dict.fromkeys(raw[done == IS_GONE].tolist(), GONE)
        others = np.union1d(np.flatnonzero(~is_raw), raw[done == IS_FOR_ANOTHER])
        return {**gone, **request.by(self._native, others).write(out)}

    def _resize(self, request: Request, raw: _Ints) -> _Pixels:
        """Writes the boxes of the raw images at some places; gives for each IS_DONE, IS_GONE or IS_FOR_ANOTHER."""
        rows, counts, images = request.rows(raw), request.counts[raw], request.images.some(raw)
        boxes = request.boxes[rows]
        starts = starts_of(images, counts, boxes)
        with self._staged(int(starts[-1])) as packed:
            done = self._packer.boxes(images, counts, boxes, starts, packed.numpy())
            whole = np.repeat(done == IS_DONE, counts)
            if whole.any():
                pixels = packed.to(self._device, non_blocking=True)
                uploaded = torch.cuda.current_stream(self._device).record_event() if self.on_device else None
                flips = request.flips[rows[whole]].astype(np.bool_)
                begins = starts[:-1][whole].astype(np.int64)
                self._write(request.out, rows[whole], pixels, begins, boxes[whole, 2:], flips)
                if uploaded:
                    uploaded.synchronize()
        return done

    def _write(
        self,
        out: _Pixels | Tensor,
        rows: _Ints,
        pixels: Tensor,
        starts: _Ints,
        sizes: _Ints,
        flips: npt.NDArray[np.bool_],
    ) -> None:
        """Resizes packed boxes into some rows of the output, ascending."""
        target = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
        if rows[-1] - rows[0] + 1 == len(rows):
            resize(pixels, starts, sizes, flips, target[rows[0] : rows[-1] + 1], self._interpolation)
            return
        some = target.new_empty((len(rows), *target.shape[1:]))
        resize(pixels, starts, sizes, flips, some, self._interpolation)
        target[torch.from_numpy(rows).to(target.device)] = some

    @contextmanager
    def _staged(self, size: int) -> Iterator[Tensor]:
        """Host memory of so many bytes, pinned for a card, that nobody else uses meanwhile."""
        try:
            memory = self._idle.get_nowait()
        except queue.Empty:
            memory = torch.empty(0, dtype=torch.uint8)
        if len(memory) < size:
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=self.on_device)
        yield memory[:size]
        self._idle.put(memory)
