"""The encoded images of a batch, and where in memory their bytes are: what a compiled decoder needs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

# An encoded image, or raw pixels (H, W, 3). Views of a memory map are read-only.
Encoded: TypeAlias = bytes | memoryview | npt.NDArray[np.uint8]


class Encodings(Sequence[Encoded]):
    """Encoded images, or raw pixels, by their place in a batch.

    Args:
        get: an image by its place.
        kept: what must stay for the addresses to hold.
        addresses: (n,) uint64.
        lengths: (n,) uint64, in bytes.
        shapes: (n, 2) int64 heights and widths of raw pixels; 0 by 0 of encoded images.
    """

    def __init__(
        self,
        get: Callable[[int], Encoded],
        kept: object,
        addresses: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        shapes: npt.NDArray[np.int64],
    ) -> None:
        self._get, self._kept = get, kept
        self.addresses, self.lengths, self.shapes = addresses, lengths, shapes

    def __len__(self) -> int:
        return len(self.addresses)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | Sequence[Encoded]:
        places = range(len(self))[place]
        return self._get(places) if isinstance(places, int) else [self._get(each) for each in places]

    def some(self, places: npt.NDArray[np.int64]) -> Encodings:
        """Those at some places. They are fetched only when they are asked for: that may fail, as for a cut file."""
        return Encodings(
            lambda place: self._get(int(places[place])),
            self._kept,
            self.addresses[places],
            self.lengths[places],
            self.shapes[places],
        )


def joined(parts: Sequence[tuple[npt.NDArray[np.int64], Encodings]]) -> Encodings:
    """One batch of several parts.

    Args:
        parts: places in the batch, and the images there; together every place once.
    """
    images = [part for _, part in parts]
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    starts = np.cumsum([0, *map(len, images)])

    def get(place: int) -> Encoded:
        part = int(np.searchsorted(starts, order[place], side="right")) - 1
        return images[part][int(order[place] - starts[part])]

    return Encodings(
        get,
        images,
        np.concatenate([part.addresses for part in images])[order],
        np.concatenate([part.lengths for part in images])[order],
        np.concatenate([part.shapes for part in images])[order],
    )


def of_images(images: Sequence[Encoded]) -> Encodings:
    """Images that lie anywhere, which stay where they are.

    Raises:
        ValueError: for an array that is not (H, W, 3) of uint8.
    """
    if isinstance(images, Encodings):
        return images
    arrays = [_array(image) for image in images]
    return Encodings(
        images.__getitem__,
        arrays,
        np.array([array.ctypes.data for array in arrays], dtype=np.uint64),
        np.array([array.nbytes for array in arrays], dtype=np.uint64),
        np.array([array.shape[:2] if array.ndim == 3 else (0, 0) for array in arrays], dtype=np.int64).reshape(-1, 2),
    )


def _array(image: Encoded) -> npt.NDArray[np.uint8]:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"pixels {image.shape} of {image.dtype} are not (H, W, 3) of uint8")
        return np.ascontiguousarray(image)
    return np.frombuffer(image, dtype=np.uint8)
