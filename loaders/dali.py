"""The `dali` decoder: NVIDIA DALI's decode and resize, on a CUDA card or on the CPU; and `dali+native`, which shares.

    whole JPEGs of 8-bit gray or three-channel pixels   DALI (loaders/dali_graph.py)
    raw pixels, other formats, what DALI fails at       native, and what that does not take, the reference decoder

By itself, DALI takes a cut file for whole where the box ends before the cut, and a sample that it fails at costs the
batch and the pipeline. Here a cut file fails by name, and the others of its batch are delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from loaders.dali_graph import GRAPHS, INTERPOLATIONS, Graphs, copy_out, why_missing
from loaders.encodings import Encoded
from loaders.errors import InputError
from loaders.headers import GONE
from loaders.native.decoder import NativeDecoder
from loaders.native.library import IS_DONE, IS_FOR_ANOTHER, IS_GONE
from loaders.native.packing import Packer
from loaders.request import Request
from loaders.sharing import Shares
from loaders.types import Failures

if TYPE_CHECKING:
    from torch import Tensor

_Ints = npt.NDArray[np.int64]
_Pixels = npt.NDArray[np.uint8]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class DaliDecoder:
    """DALI's pixels where it can, for the images of any store.

    On a card they are made in the card's memory. An image is decoded once for each of its boxes.

    Args:
        interpolation: "bilinear" or "bicubic", both antialiased.
        num_threads: DALI's threads, and as many that copy, and that decode what it does not take.
        card: number of the CUDA device; None for DALI's CPU backend.
        largest: height and width in pixels that no image exceeds, for which the card's memory is taken at once; 0, 0
            where they are not known.
        shares: whether the native decoder takes a part of each batch, as large as lets both end together: the pixels
            depend on which one an image came to.
        hardware: share of the pixels that a card's own JPEG decoder is given where it has one, 0 to 1; DALI's default.

    Raises:
        InputError: for another interpolation, or where DALI or the native decoder is not there.
    """

    def __init__(
        self,
        interpolation: str = "bilinear",
        num_threads: int = 1,
        *,
        card: int | None = None,
        largest: tuple[int, int] = (0, 0),
        shares: bool = False,
        hardware: float = 0.65,
    ) -> None:
        if interpolation not in INTERPOLATIONS:
            raise InputError(
                f"decoder {'dali+native' if shares else 'dali'} cannot resize by {interpolation!r}: take "
                f"{' or '.join(INTERPOLATIONS)}, or decoder auto."
            )
        missing = why_missing()
        if missing:
            raise InputError(f"{missing}.")
        self.on_device = card is not None
        self._shares = Shares() if shares else None
        self._native = NativeDecoder(interpolation, num_threads)
        self._packer = Packer(num_threads)
        on_card = {
            "hw_decoder_load": hardware,
            "preallocate_height_hint": largest[0],
            "preallocate_width_hint": largest[1],
        }
        self._graphs = Graphs(interpolation, num_threads, card, on_card)
        self._threads = ThreadPoolExecutor(GRAPHS, thread_name_prefix="twistnet-share")

    @property
    def name(self) -> str:
        """As `--decoder` spells it."""
        return "dali+native" if self._shares else "dali"

    def shares(self) -> Mapping[str, float]:
        return {"dali": self._shares.taken, "native": 1 - self._shares.taken} if self._shares else {}

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""
        self._threads.shutdown()
        for each in (self._packer, self._native, self._graphs):
            each.close()

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
        encoded = np.flatnonzero(request.images.shapes[:, 0] == 0)
        if self._shares:
            encoded = encoded[: self._shares.first(len(encoded))]
        jpegs, done = self._packer.jpegs(request.images.some(encoded))
        is_taken = done == IS_DONE
        others = np.setdiff1d(np.arange(len(data)), encoded[done != IS_FOR_ANOTHER])
        by_native = self._threads.submit(_timed, request.by, self._native, others)
        try:
            failed, seconds = self._by_graph(request, encoded[is_taken], list(compress(jpegs, is_taken)))
        finally:
            part, native_seconds = by_native.result()
        if self._shares:
            self._shares.measured((int(is_taken.sum()), seconds), (len(others), native_seconds))
        gone = dict.fromkeys(encoded[done == IS_GONE].tolist(), GONE)
        return {**gone, **part.write(out), **request.by(self._native, failed).write(out)}

    def _by_graph(self, request: Request, places: _Ints, jpegs: list[_Pixels]) -> tuple[_Ints, float]:
        """Decodes the JPEGs at some places; gives those that DALI fails at, and the seconds that it took."""
        rows = request.rows(places)
        if not len(rows):
            return places, 0.0
        done = np.zeros(len(rows), dtype=np.bool_)
        owners = np.repeat(np.arange(len(places)), request.counts[places])
        jpegs = [jpegs[owner] for owner in owners.tolist()]
        seconds = 0.0
        with self._graphs.one() as graph:
            begun = time.perf_counter()
            for part, pixels in graph.run(jpegs, request.boxes[rows], request.flips[rows], request.size):
                seconds += time.perf_counter() - begun
                copy_out(pixels, request.out, rows[part])  # which on a card waits for other work too
                done[part] = True
                begun = time.perf_counter()
        return np.unique(places[owners[~done]]), seconds


def _timed(
    work: Callable[_Arguments, _Result], *args: _Arguments.args, **options: _Arguments.kwargs
) -> tuple[_Result, float]:
    """What the call gives, and the seconds that it took."""
    begun = time.perf_counter()
    return work(*args, **options), time.perf_counter() - begun
