"""The `native` decoder: libjpeg-turbo on the region of the crop alone, and Pillow's resize, bit for bit the reference.

    sizes    the JPEG's headers alone
    decode   rows of the region -> as wide as the output -> as high as the output, in threads that hold no GIL

It takes JPEGs of 8-bit gray and three-channel pixels, and raw pixels. Everything else, and whatever it finds damaged,
goes to the reference decoder, which decodes it or says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded
from loaders.errors import InputError
from loaders.headers import GONE, image_sizes
from loaders.native.handle import Handle
from loaders.native.library import IS_FOR_ANOTHER, IS_GONE, library, why_missing
from loaders.reference import ReferenceDecoder
from loaders.request import Request
from loaders.types import Failures, HostDecoder

LARGE = 1024  # px; of a box whose sides both are below, every pixel is decoded
_FILTERS = {"bilinear": 0, "bicubic": 1}
_Ints = npt.NDArray[np.int64]


class NativeDecoder(HostDecoder):
    """Equal to the reference decoder's pixels with Pillow 13, whose two passes older versions take in one order only.

    But for very large JPEGs: where every box of one has sides of at least eight times the output's, and of LARGE, it
    is decoded at half of its size, which on photographs differs by about 0.2 levels in the mean, and by 8 at most.

    Its memory is the boxes' and that of some rows of each image that a thread is at; but the coefficients of a
    progressive JPEG, two bytes each, lie in memory whole.

    Args:
        interpolation: "bilinear" or "bicubic", both antialiased.
        num_threads: threads that decode.

    Raises:
        InputError: for another interpolation, or where the library was not built.
    """

    name = "native"

    def __init__(self, interpolation: str = "bilinear", num_threads: int = 1) -> None:
        if interpolation not in _FILTERS:
            raise InputError(
                f"decoder native cannot resize by {interpolation!r}: take {' or '.join(_FILTERS)}, or decoder auto."
            )
        missing = why_missing()
        if missing:
            raise InputError(f"{missing}.")
        self._library = library()
        self._handle = Handle(self._library.twistnet_open, self._library.twistnet_close, num_threads)
        self._filter = _FILTERS[interpolation]
        self._reference = ReferenceDecoder(interpolation)

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""
        self._handle.close()
        self._reference.close()

    def sizes(self, data: Sequence[Encoded]) -> tuple[_Ints, Failures]:
        return image_sizes(data, self._reference)

    def decode(
        self,
        data: Sequence[Encoded],
        boxes: _Ints,
        flips: npt.NDArray[np.bool_],
        out: npt.NDArray[np.uint8],
        counts: _Ints | None = None,
    ) -> Failures:
        request = Request.of(data, boxes, flips, out, counts)
        images = request.images
        done = np.zeros(len(data), dtype=np.uint8)
        arrays = (images.addresses, images.lengths, images.shapes, request.counts, request.boxes, request.flips)
        self._library.twistnet_decode(
            self._handle.address,
            len(data),
            *(array.ctypes.data for array in arrays),
            self._filter,
            *request.size,
            out.ctypes.data,
            done.ctypes.data,
        )
        failures = dict.fromkeys(np.flatnonzero(done == IS_GONE).tolist(), GONE)
        return {**failures, **request.by(self._reference, np.flatnonzero(done == IS_FOR_ANOTHER)).write(out)}
