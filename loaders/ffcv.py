"""The `ffcv` decoder: FFCV's own decode and resize, for those who want FFCV's pixels, through its compiled library.

    whole image   libjpeg-turbo's fast DCT, into memory that a thread keeps
    box           OpenCV's INTER_AREA, without antialiasing where the box is enlarged
    mirror        a copy

Its two functions are called by threads of our own library, each of which keeps the memory of the largest image that it
has met. FFCV's Python side is not imported: neither its `Loader` nor Numba. Every return code is looked at: what FFCV's
library fails at or warns of is decoded by the reference decoder, which delivers it or says what is wrong with it; the
resize is FFCV's all the same. FFCV itself takes no notice and delivers another image's pixels.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, Encodings, of_images
from loaders.errors import InputError
from loaders.headers import GONE, image_sizes
from loaders.native import library as native
from loaders.native.handle import Handle
from loaders.reference import ReferenceDecoder, decoded, reason_of
from loaders.request import Request
from loaders.types import Failures, HostDecoder

_Pixels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]


@functools.cache
def why_missing() -> str | None:
    """What keeps FFCV's library from being used, with the next step; None where it is there."""
    try:
        _library()
    except (OSError, AttributeError) as error:
        return str(error)
    return native.why_missing()


class FfcvDecoder(HostDecoder):
    """FFCV's pixels, for the images of any store.

    Args:
        interpolation: "area", which is FFCV's only one.
        num_threads: threads that decode.

    Raises:
        InputError: for another interpolation, or where FFCV is not installed.
    """

    name = "ffcv"

    def __init__(self, interpolation: str = "area", num_threads: int = 1) -> None:
        if interpolation != "area":
            raise InputError(
                f"decoder ffcv cannot resize by {interpolation!r}: take interpolation area, which is FFCV's, or "
                "decoder native."
            )
        missing = why_missing()
        if missing:
            raise InputError(f"{missing}.")
        found = _library()
        self._functions = (ctypes.cast(found.imdecode, ctypes.c_void_p), ctypes.cast(found.resize, ctypes.c_void_p))
        self._library = native.library()
        self._handle = Handle(self._library.twistnet_ffcv_open, self._library.twistnet_ffcv_close, num_threads)
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
        out: _Pixels,
        counts: _Ints | None = None,
    ) -> Failures:
        request = Request.of(data, boxes, flips, out, counts)
        sizes, _ = self.sizes(data)
        done = self._call(request.images, sizes, request.boxes, request.flips, out, request.counts)
        failures = dict.fromkeys(np.flatnonzero(done == native.IS_GONE).tolist(), GONE)
        for place in np.flatnonzero(done == native.IS_FOR_ANOTHER).tolist():
            try:
                whole = _pixels(data[place], *sizes[place].tolist())
            # Pillow's plug-ins raise nearly anything on hostile bytes.
            except Exception as error:
                failures[place] = reason_of(error)
                continue
            one = slice(place, place + 1)
            rows = request.rows(np.array([place]))
            some = slice(rows[0], rows[-1] + 1)
            if not self._call(
                of_images([whole]), sizes[one], request.boxes[some], request.flips[some], out[some], request.counts[one]
            ):
                failures[place] = f"FFCV cannot resize its boxes {request.boxes[some].tolist()}"
        return failures

    def _call(
        self, images: Encodings, sizes: _Ints, boxes: _Ints, flips: _Pixels, out: _Pixels, counts: _Ints
    ) -> npt.NDArray[np.uint8]:
        done = np.zeros(len(images), dtype=np.uint8)
        arrays = (images.addresses, images.lengths, images.shapes, sizes, counts, boxes, flips)
        self._library.twistnet_ffcv_decode(
            self._handle.address,
            *self._functions,
            len(images),
            *(array.ctypes.data for array in arrays),
            *out.shape[1:3],
            out.ctypes.data,
            done.ctypes.data,
        )
        return done


def _pixels(encoded: Encoded, height: int, width: int) -> _Pixels:
    """The whole image, by the reference decoder where it is encoded."""
    image = np.ascontiguousarray(encoded if isinstance(encoded, np.ndarray) else decoded(encoded))
    if image.shape[:2] != (height, width):  # OpenCV would read past its end
        raise ValueError(f"it is {image.shape[0]} x {image.shape[1]} where its header says {height} x {width}")
    return image


@functools.cache
def _library() -> ctypes.CDLL:
    """FFCV's library, whose calls let other Python threads run meanwhile. Raises OSError where it is not there."""
    spec = importlib.util.find_spec("ffcv")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in sorted(Path(folder).glob("_libffcv*.so"))]
    if not found:
        raise OSError("FFCV is not installed: pip install 'twistnet[ffcv]', or take decoder native")
    opened = ctypes.CDLL(str(found[0]))
    opened.resize.argtypes = [ctypes.c_int64] * 11
    opened.resize.restype = None
    number, flag = ctypes.c_uint32, ctypes.c_bool
    opened.imdecode.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint64, number, number, ctypes.c_void_p),
        *(number, number, number, number, number, number, flag, flag),
    ]
    opened.imdecode.restype = ctypes.c_int
    return opened
