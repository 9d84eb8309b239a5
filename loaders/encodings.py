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


class Chosen(Sequence[Encoded]):
    """Some of a batch's images, each fetched when it is asked for: that may fail, as for a file that was cut.

    Args:
        images: the batch.
        places: which of them.
    """

    def __init__(self, images: Sequence[Encoded], places: Sequence[int]) -> None:
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | Sequence[Encoded]:
        places = self._places[place]
        return self._images[places] if isinstance(places, int) else Chosen(self._images, places)


def check_request(
    data: Sequence[Encoded],
    boxes: npt.NDArray[np.int64],
    flips: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    counts: npt.NDArray[np.int64],
) -> None:
    """Raises ValueError where the arguments of `Decoder.decode` do not fit each other: compiled code trusts them."""
    if out.dtype != np.uint8 or out.ndim != 4 or out.shape[3] != 3 or not out.flags.c_contiguous:
        raise ValueError(f"out {out.shape} of {out.dtype} is not (n, height, width, 3) of uint8 in one piece")
    if not out.flags.writeable or not out.size:
        raise ValueError(f"out {out.shape} cannot be written to")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes {boxes.shape} are not (m, 4)")
    if len(counts) != len(data) or (counts < 1).any():
        raise ValueError(f"counts {counts.tolist()} are not at least 1 for each of {len(data)} images")
    if not (counts.sum() == len(boxes) == len(flips) <= len(out)):
        raise ValueError(f"{len(boxes)} boxes, {len(flips)} flips and {len(out)} outputs for {counts.sum()}")


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
