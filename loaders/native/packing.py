"""Images of a batch copied into one piece of memory, by threads that hold no GIL, for decoders that are not our own.

Memory of a file that was cut does not end the process then, and does not go away while the other decoder works.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encodings
from loaders.native.handle import Handle
from loaders.native.library import library

_ALIGNED = 64  # bytes
_Bytes = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]


class Packer:
    """Copies encoded images, or boxes of raw pixels.

    Args:
        num_threads: threads that copy.

    Raises:
        InputError: where they cannot be started.
    """

    def __init__(self, num_threads: int) -> None:
        self._library = library()
        self._handle = Handle(self._library.twistnet_pack_open, self._library.twistnet_pack_close, num_threads)

    def close(self) -> None:
        """Ends the threads."""
        self._handle.close()

    def jpegs(self, images: Encodings) -> tuple[list[_Bytes], _Bytes]:
        """The bytes of each image; and (n,) IS_DONE where they are a JPEG of 8-bit gray or three-channel pixels with an
        end, IS_GONE where their memory has gone, IS_FOR_ANOTHER elsewhere."""
        starts = _starts(images.lengths)
        packed = np.empty(int(starts[-1]), dtype=np.uint8)
        done = np.zeros(len(images), dtype=np.uint8)
        arrays = (images.addresses, images.lengths, starts, packed, done)
        self._library.twistnet_pack_jpegs(self._handle.address, len(images), *(array.ctypes.data for array in arrays))
        ends = (starts[:-1] + images.lengths).tolist()
        return [packed[start:end] for start, end in zip(starts[:-1].tolist(), ends, strict=True)], done

    def boxes(
        self, images: Encodings, counts: _Ints, boxes: _Ints, starts: npt.NDArray[np.uint64], packed: _Bytes
    ) -> _Bytes:
        """Copies boxes of raw pixels, each to rows without gaps.

        Args:
            images: n of them, raw pixels.
            counts: (n,) boxes of each.
            boxes: (m, 4) top, left, height, width, in one piece.
            starts: `starts_of` them.
            packed: at least as many bytes as they take.

        Returns:
            (n,) IS_DONE, IS_GONE where the image's memory has gone, IS_FOR_ANOTHER where a box is not inside of it.
        """
        done = np.zeros(len(images), dtype=np.uint8)
        arrays = (images.addresses, images.lengths, images.shapes, counts, boxes, starts, packed, done)
        self._library.twistnet_pack_boxes(self._handle.address, len(images), *(array.ctypes.data for array in arrays))
        return done


def starts_of(images: Encodings, counts: _Ints, boxes: _Ints) -> npt.NDArray[np.uint64]:
    """(m + 1,) where each box begins in memory, and where the last one ends; one that is not inside takes none."""
    shapes = np.repeat(images.shapes, counts, axis=0)
    fits = ((boxes[:, :2] >= 0) & (boxes[:, 2:] > 0) & (boxes[:, 2:] <= shapes - boxes[:, :2])).all(axis=1)
    return _starts(np.where(fits, 3 * boxes[:, 2] * boxes[:, 3], 0).astype(np.uint64))


def _starts(lengths: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Where each begins, and where the last one ends."""
    ends = np.cumsum(-(-lengths.astype(np.int64) // _ALIGNED) * _ALIGNED)
    return np.concatenate(([0], ends)).astype(np.uint64)
