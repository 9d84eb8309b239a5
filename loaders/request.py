"""What a decoder is asked for, checked; and some of its images by another decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, Encodings, of_images

if TYPE_CHECKING:
    from torch import Tensor

    from loaders.types import Decoder, Failures

_Ints: TypeAlias = npt.NDArray[np.int64]
_Pixels: TypeAlias = npt.NDArray[np.uint8]


class Part(NamedTuple):
    """What was decoded of a request.

    Attributes:
        rows: (k,) places in its `out`.
        pixels: (k, height, width, 3) uint8, of these.
        failures: of the others, by the places of their images.
    """

    rows: _Ints
    pixels: _Pixels
    failures: Failures

    def write(self, out: _Pixels | Tensor) -> Failures:
        """Puts the pixels in their places, in a card's memory on the current stream; gives the failures."""
        if isinstance(out, np.ndarray):
            out[self.rows] = self.pixels
        elif len(self.rows):
            import torch

            out[torch.from_numpy(self.rows).to(out.device)] = torch.from_numpy(self.pixels).to(out.device)
        return self.failures


class Request(NamedTuple):
    """The arguments of `Decoder.decode`, which compiled code trusts.

    Attributes:
        images: n of them.
        boxes: (m, 4), in one piece.
        flips: (m,) uint8, 0 or 1, in one piece.
        out: (m or more, height, width, 3) uint8, in one piece.
        counts: (n,) boxes of each image, at least 1.
    """

    images: Encodings
    boxes: _Ints
    flips: _Pixels
    out: _Pixels | Tensor
    counts: _Ints

    @classmethod
    def of(
        cls,
        data: Sequence[Encoded],
        boxes: _Ints,
        flips: npt.NDArray[np.bool_],
        out: _Pixels | Tensor,
        counts: _Ints | None,
    ) -> Request:
        """Raises ValueError where the arguments do not fit each other."""
        counts = np.ones(len(data), dtype=np.int64) if counts is None else np.ascontiguousarray(counts, dtype=np.int64)
        boxes, mirrored = np.ascontiguousarray(boxes, dtype=np.int64), np.ascontiguousarray(flips, dtype=np.uint8)
        _check_out(out)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes {boxes.shape} are not (m, 4)")
        if len(counts) != len(data) or (counts < 1).any():
            raise ValueError(f"counts {counts.tolist()} are not at least 1 for each of {len(data)} images")
        if not (counts.sum() == len(boxes) == len(mirrored) <= len(out)):
            raise ValueError(f"{len(boxes)} boxes, {len(mirrored)} flips and {len(out)} outputs for {counts.sum()}")
        return cls(of_images(data), boxes, mirrored, out, counts)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output in pixels."""
        return self.out.shape[1], self.out.shape[2]

    def rows(self, places: _Ints) -> _Ints:
        """Which boxes are those of the images at some places, ascending."""
        wanted = np.zeros(len(self.counts), dtype=np.bool_)
        wanted[places] = True
        return np.flatnonzero(np.repeat(wanted, self.counts))

    def by(self, decoder: Decoder, places: _Ints) -> Part:
        """Decodes the images at some places, ascending, without writing their pixels yet."""
        rows, counts = self.rows(places), self.counts[places]
        pixels = np.empty((len(rows), *self.size, 3), dtype=np.uint8)
        if not len(places):
            return Part(rows, pixels, {})
        failures = decoder.decode(
            self.images.some(places), self.boxes[rows], self.flips[rows].astype(np.bool_), pixels, counts
        )
        if not failures:
            return Part(rows, pixels, {})
        done = np.repeat([place not in failures for place in range(len(places))], counts)
        return Part(rows[done], pixels[done], {int(places[place]): reason for place, reason in failures.items()})


def _check_out(out: _Pixels | Tensor) -> None:
    is_whole = out.flags.c_contiguous if isinstance(out, np.ndarray) else out.is_contiguous()
    if not str(out.dtype).endswith("uint8") or out.ndim != 4 or out.shape[3] != 3 or not is_whole:
        raise ValueError(f"out {tuple(out.shape)} of {out.dtype} is not (n, height, width, 3) of uint8 in one piece")
    if 0 in out.shape or (isinstance(out, np.ndarray) and not out.flags.writeable):
        raise ValueError(f"out {tuple(out.shape)} cannot be written to")
