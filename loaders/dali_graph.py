"""DALI's graph from JPEGs, boxes and flips to pixels, and how it goes on after a sample that it fails at.

    decoders.image_slice   the box alone, on the card's decoders with device="mixed", else by libjpeg-turbo
    resize                 antialiased
    flip                   where asked

Pipeline mode, without its prefetching: a batch is one call, so that the order stays ours, and while one graph works,
another one's batch is prepared.
"""

from __future__ import annotations

import functools
import inspect
import io
import math
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from loaders.errors import InputError, one_line

if TYPE_CHECKING:
    from torch import Tensor

GRAPHS = 2
ON_CPU = {"device": "cpu", "use_fast_idct": False}
ON_CARD = {
    "device": "mixed",
    "jpeg_fancy_upsampling": True,  # as libjpeg-turbo does it, and so Pillow
    "affine": False,  # else the threads of all graphs and ranks are bound to the same first cores
}
INTERPOLATIONS = {"bilinear": "INTERP_LINEAR", "bicubic": "INTERP_CUBIC"}
_Pixels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]


@functools.cache
def why_missing() -> str | None:
    """What keeps DALI from being used, with the next step; None where it is there."""
    try:
        import nvidia.dali.fn
        import nvidia.dali.types  # noqa: F401
    except (ImportError, OSError) as error:
        return (
            f"DALI cannot be used ({error}): pip install 'twistnet[dali]', 'twistnet[dali12]' for CUDA 12, or take "
            "decoder native"
        )
    return None


class Graph:
    """One graph, built anew for more samples than it was built for, and after a failure. For one thread at a time.

    Args:
        interpolation: of INTERPOLATIONS.
        num_threads: DALI's own threads.
        card: number of the CUDA device that decodes; None for the CPU.
        on_card: further arguments of the decoder on the card.
    """

    def __init__(self, interpolation: str, num_threads: int, card: int | None, on_card: Mapping[str, Any]) -> None:
        self._interpolation, self._num_threads, self._card = interpolation, num_threads, card
        self._on_card = on_card
        self._pipeline: Any = None
        self._capacity = 0

    def run(
        self, jpegs: Sequence[_Pixels], boxes: _Ints, flips: _Pixels, size: tuple[int, int]
    ) -> Iterator[tuple[slice, Any]]:
        """Decodes one box of each JPEG.

        Args:
            jpegs: n of (length,) uint8.
            boxes: (n, 4) top, left, height, width.
            flips: (n,) uint8, whether to mirror left to right.
            size: height and width of the pixels.

        Yields:
            Which of them are done and their pixels, DALI's (n, height, width, 3) of uint8 in the card's or the host's
            memory, which are there until the next one is asked for; a sample that DALI fails at is in none of them.

        Raises:
            InputError: where DALI fails at any sample.
        """
        parts = [slice(0, len(jpegs))]
        while parts:
            part = parts.pop()
            try:
                pixels = self._run(jpegs[part], boxes[part], flips[part], size)
            except RuntimeError as error:
                failed = str(error)  # the error itself would keep the old pipeline, and its memory, to the end
            else:
                yield part, pixels
                continue
            # DALI does not say which sample it was.
            self._check(failed)
            middle = (part.start + part.stop) // 2
            if middle > part.start:
                parts += [slice(middle, part.stop), slice(part.start, middle)]

    def _run(self, jpegs: Sequence[_Pixels], boxes: _Ints, flips: _Pixels, size: tuple[int, int]) -> Any:
        edges = np.minimum(boxes, np.iinfo(np.int32).max).astype(np.int32)  # what is beyond fails there
        inputs = {
            "jpegs": list(jpegs),
            "starts": np.ascontiguousarray(edges[:, :2]),
            "shapes": np.ascontiguousarray(edges[:, 2:]),
            "flips": flips.astype(np.int32),
            "sizes": np.tile(np.array(size, dtype=np.float32), (len(jpegs), 1)),
        }
        if self._capacity < len(jpegs):
            self._capacity, self._pipeline = len(jpegs), None
        if self._pipeline is None:
            pipeline = self.defined()
            pipeline.build()
        else:
            # Taken away until all has gone well: it cannot be used again after a failure, nor with inputs left in it.
            pipeline, self._pipeline = self._pipeline, None
        for name, values in inputs.items():
            pipeline.feed_input(name, values)
        (pixels,) = pipeline.run()  # it waits until they are there
        self._pipeline = pipeline
        return pixels

    def defined(self) -> Any:
        """The pipeline, whose operators and their arguments DALI has checked; not built, which needs the card."""
        from nvidia.dali import Pipeline, fn, types

        pipeline = Pipeline(
            batch_size=max(self._capacity, 1),
            num_threads=self._num_threads,
            device_id=self._card,
            prefetch_queue_depth=1,
            exec_pipelined=False,
            exec_async=False,
        )
        source = functools.partial(fn.external_source, no_copy=True)  # the arrays stay until the call has ended
        with pipeline:
            decoded = fn.decoders.image_slice(
                source(name="jpegs", dtype=types.UINT8, ndim=1),
                source(name="starts", dtype=types.INT32, ndim=1),
                source(name="shapes", dtype=types.INT32, ndim=1),
                axes=[0, 1],
                output_type=types.RGB,
                **(ON_CPU if self._card is None else {**ON_CARD, **self._on_card}),
                **_orientation(),
            )
            resized = fn.resize(
                decoded,
                size=source(name="sizes", dtype=types.FLOAT, ndim=1),
                interp_type=getattr(types, INTERPOLATIONS[self._interpolation]),
                antialias=True,
            )
            flipped = fn.flip(resized, horizontal=source(name="flips", dtype=types.INT32, ndim=0))
            pipeline.set_outputs(flipped)
        return pipeline

    def _check(self, failed: str) -> None:
        """Raises InputError where a JPEG that is whole fails too: then it is not the sample."""
        try:
            self._run([_whole_jpeg()], np.array([[0, 0, 8, 8]]), np.zeros(1, dtype=np.uint8), (8, 8))
        except RuntimeError as error:
            reason = _cause(str(error)) or _cause(failed)
            raise InputError(f"DALI fails at any image ({reason}): take decoder native.") from None


class Graphs:
    """Graphs that take turns, and share the threads: a batch's last images do not keep all of them waiting.

    Args:
        num_threads: of all together, rounded up to one each.
        interpolation, card, on_card: as for `Graph`.
    """

    def __init__(self, interpolation: str, num_threads: int, card: int | None, on_card: Mapping[str, Any]) -> None:
        self._idle: queue.LifoQueue[Graph] = queue.LifoQueue()
        for _ in range(GRAPHS):
            self._idle.put(Graph(interpolation, math.ceil(num_threads / GRAPHS), card, on_card))

    def close(self) -> None:
        """Ends the threads of the graphs that nobody uses."""
        while not self._idle.empty():
            self._idle.get_nowait()

    @contextmanager
    def one(self) -> Iterator[Graph]:
        """A graph that nobody else uses meanwhile; the one that was used last, so that the others stay unbuilt."""
        graph = self._idle.get()
        try:
            yield graph
        finally:
            self._idle.put(graph)


def copy_out(pixels: Any, out: _Pixels | Tensor, rows: _Ints) -> None:
    """Copies a graph's pixels, all of one size; to a card's memory on the current stream, whose end is waited for.

    Args:
        pixels: DALI's, n of (height, width, 3).
        out: (m, height, width, 3) uint8, in host memory where the graph works on the CPU, else in the card's.
        rows: (n,) where in `out`, ascending.
    """
    run = slice(int(rows[0]), int(rows[-1]) + 1)
    is_run = run.stop - run.start == len(rows)
    if isinstance(out, np.ndarray):
        out[run if is_run else rows] = np.asarray(pixels.as_tensor())  # a view
        return
    import torch
    from nvidia.dali.plugin.pytorch import feed_ndarray

    stream = torch.cuda.current_stream(out.device)
    copy = out[run] if is_run else torch.empty((len(rows), *out.shape[1:]), dtype=torch.uint8, device=out.device)
    feed_ndarray(pixels.as_tensor(), copy, cuda_stream=stream)
    if not is_run:
        out[torch.from_numpy(rows).to(out.device)] = copy
    stream.record_event().synchronize()  # DALI writes to its memory again in the next call


@functools.cache
def _orientation() -> dict[str, Any]:
    # Decoders that know of EXIF turn by it unless told otherwise; those before 2.0 do not know of it.
    from nvidia.dali import fn

    knows = "adjust_orientation" in inspect.signature(fn.decoders.image_slice).parameters
    return {"adjust_orientation": False} if knows else {}


@functools.cache
def _whole_jpeg() -> _Pixels:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def _cause(message: str) -> str:
    """The line of DALI's message that says what is wrong, behind those that say where."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if not line.startswith(("Critical error", "Error in", "Error when"))]
    return one_line((causes or lines or ["no reason is given"])[0], 200)
