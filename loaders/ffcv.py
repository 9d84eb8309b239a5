"""The `ffcv` decoder: FFCV's own decode and resize, for those who want FFCV's pixels, through its compiled library.

    whole image   libjpeg-turbo's fast DCT, into memory that a thread keeps
    box           OpenCV's INTER_AREA, without antialiasing where the box is enlarged
    mirror        OpenCV's

FFCV's Python side is not imported: neither its `Loader` nor Numba. Every return code is looked at: what FFCV's library
fails at or warns of is decoded by the reference decoder, which delivers it or says what is wrong with it; the resize is
FFCV's all the same. FFCV itself takes no notice and delivers another image's pixels.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, of_images
from loaders.errors import InputError
from loaders.headers import image_sizes
from loaders.reference import ReferenceDecoder, decoded
from loaders.types import Failures

_AT_ONCE = 8  # images
_KEPT_BYTES = 1 << 24  # of an image's memory; more is given back at once
_Pixels = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]


@functools.cache
def why_missing() -> str | None:
    """What keeps FFCV's library from being used, with the next step; None where it is there."""
    try:
        _library()
        import cv2  # noqa: F401
    except (OSError, ImportError, AttributeError) as error:
        return str(error)
    return None


class FfcvDecoder:
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
        import cv2

        self._library = _library()
        self._mirror: Callable[[_Pixels, int, _Pixels], object] = cv2.flip
        self._reference = ReferenceDecoder(interpolation)
        self._kept = threading.local()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="twistnet-decode")

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""
        self._threads.shutdown(cancel_futures=True)
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
        images = of_images(data)
        sizes, failures = self.sizes(data)
        counts = np.ones(len(data), dtype=np.int64) if counts is None else counts
        starts = np.cumsum(counts) - counts
        # OpenCV ends the process where a box leaves its image.
        owners = np.repeat(sizes, counts, axis=0)
        outside = (boxes[:, :2] < 0) | (boxes[:, 2:] < 1) | (boxes[:, :2] + boxes[:, 2:] > owners)
        if outside.any() and not failures:
            raise ValueError(f"box {boxes[outside.any(axis=1)][0].tolist()} is not inside its image")

        # Python's numbers once a batch: NumPy's, one at a time, would cost more than the calls.
        sources = list(zip(images.addresses.tolist(), images.lengths.tolist(), sizes.tolist(), strict=True))
        raw, edges, mirrored = (images.shapes[:, 0] > 0).tolist(), boxes.tolist(), flips.tolist()
        firsts, ends = starts.tolist(), (starts + counts).tolist()

        def some(first: int) -> dict[int, str]:
            failed = {}
            for place in range(first, min(first + _AT_ONCE, len(data))):
                if place in failures:
                    failed[place] = failures[place]
                    continue
                address, length, (height, width) = sources[place]
                try:
                    pixels = None if raw[place] else self._whole(images[place], address, length, height, width)
                # Pillow's plug-ins raise nearly anything on hostile bytes.
                except Exception as error:
                    failed[place] = f"{error}" or type(error).__name__
                    continue
                whole = (pixels.address if pixels else address, height, width)
                for number in range(firsts[place], ends[place]):
                    self._resize(whole, edges[number], mirrored[number], out[number])
            return failed

        found = self._threads.map(some, range(0, len(data), _AT_ONCE))
        return {place: reason for failed in found for place, reason in failed.items()}

    def _whole(self, encoded: Encoded, address: int, length: int, height: int, width: int) -> _Memory:
        """The whole image, which stays until the next one of this thread."""
        assert not isinstance(encoded, np.ndarray), "an array has a shape"
        if bytes(encoded[:2]) == b"\xff\xd8":
            pixels = self._memory_of("whole", 3 * height * width)
            # Address, length, height and width of the JPEG; output, its size, place of the crop, scale 1/1, no crop.
            crop = (height, width, 0, 0, 1, 1, False, False)
            if not self._library.imdecode(address, length, height, width, pixels.address, *crop):
                return pixels
        image = np.ascontiguousarray(decoded(encoded))
        if image.shape[:2] != (height, width):  # OpenCV would read past its end
            raise ValueError(f"it is {image.shape[0]} x {image.shape[1]} where its header says {height} x {width}")
        return _memory(image)

    def _resize(self, whole: tuple[int, int, int], box: list[int], flip: bool, out: _Pixels) -> None:
        top, left, height, width = box
        edges = (top, top + height, left, left + width)
        if not flip:
            self._library.resize(0, *whole, *edges, out.ctypes.data, *out.shape[:2])
            return
        target = self._memory_of("target", out.size)
        self._library.resize(0, *whole, *edges, target.address, *out.shape[:2])
        self._mirror(target.array[: out.size].reshape(out.shape), 1, out)

    def _memory_of(self, name: str, size: int) -> _Memory:
        """Memory of this thread, which the next image uses again."""
        kept: _Memory | None = getattr(self._kept, name, None)
        if kept is None or len(kept.array) < size:
            kept = _memory(np.empty(size, dtype=np.uint8))
            if size <= _KEPT_BYTES:
                setattr(self._kept, name, kept)
        return kept


class _Memory(NamedTuple):
    array: _Pixels
    address: int


def _memory(array: _Pixels) -> _Memory:
    return _Memory(array, array.ctypes.data)


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
