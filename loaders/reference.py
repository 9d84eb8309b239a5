"""The `reference` decoder: the definition of right, which every faster decoder is held to.

Pillow decodes (libjpeg-turbo for JPEG), and Pillow's antialiased resize follows the crop; for "area", which is FFCV's
resize, it is OpenCV's INTER_AREA. torch's uint8 antialiased resize is not the same on every processor: its vectorised
paths may differ by a level and, for bicubic, by more. EXIF orientation is ignored, as ImageNet training does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from loaders.encodings import Encoded
from loaders.errors import InputError, SampleError
from loaders.types import Failures, HostDecoder

MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a gibibyte as RGB
# Pillow's other plug-ins start programs (EPS), or read what no data set of photographs holds.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_AT_ONCE = 8  # images
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Pixels: TypeAlias = npt.NDArray[np.uint8]


class ReferenceDecoder(HostDecoder):
    """Every format that Pillow reads, as RGB: CMYK, gray, palette, alpha and 16 bits are converted as Pillow does.

    Raw pixels are cropped, resized and mirrored as the decoded ones are.

    Args:
        interpolation: "bilinear" or "bicubic", both antialiased, or "area".
        num_threads: threads that decode.

    Raises:
        InputError: for "area" where OpenCV is not installed.
    """

    name = "reference"

    def __init__(self, interpolation: str = "bilinear", num_threads: int = 1) -> None:
        self._resize = _resize_by_area() if interpolation == "area" else _resize_by_pillow(FILTERS[interpolation])
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="twistnet-decode")

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""
        self._threads.shutdown(cancel_futures=True)

    def sizes(self, data: Sequence[Encoded]) -> tuple[npt.NDArray[np.int64], Failures]:
        sizes = np.ones((len(data), 2), dtype=np.int64)
        failures = {}
        for index in range(len(data)):
            try:
                sizes[index] = _size(data[index])
            # Pillow's plug-ins raise nearly anything on hostile bytes: struct.error, SyntaxError, OSError, ...
            except Exception as error:
                failures[index] = reason_of(error)
        return sizes, failures

    def decode(
        self,
        data: Sequence[Encoded],
        boxes: npt.NDArray[np.int64],
        flips: npt.NDArray[np.bool_],
        out: Pixels,
        counts: npt.NDArray[np.int64] | None = None,
    ) -> Failures:
        height, width = out.shape[1:3]
        ends = np.arange(1, len(data) + 1) if counts is None else np.cumsum(counts)
        starts = np.concatenate(([0], ends[:-1]))

        def some(first: int) -> dict[int, str]:
            failures = {}
            for index in range(first, min(first + _AT_ONCE, len(data))):
                try:
                    image = _image(data[index])
                    for place in range(int(starts[index]), int(ends[index])):
                        top, left, box_h, box_w = (int(edge) for edge in boxes[place])
                        crop = image.crop((left, top, left + box_w, top + box_h))
                        pixels = self._resize(crop, width, height)
                        out[place] = pixels[:, ::-1] if flips[place] else pixels
                except Exception as error:  # as above
                    failures[index] = reason_of(error)
            return failures

        if len(data) <= _AT_ONCE:
            return some(0)
        found = self._threads.map(some, range(0, len(data), _AT_ONCE))
        return {index: reason for failures in found for index, reason in failures.items()}


def decoded(encoded: bytes | memoryview) -> Pixels:
    """All pixels of an image, (H, W, 3); raises what Pillow raises."""
    return np.asarray(_image(encoded))


def _resize_by_pillow(filter_: Image.Resampling) -> Callable[[Image.Image, int, int], Pixels]:
    return lambda crop, width, height: np.asarray(crop.resize((width, height), filter_))


def _resize_by_area() -> Callable[[Image.Image, int, int], Pixels]:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"interpolation area is OpenCV's, which cannot be imported ({error}): pip install 'twistnet[ffcv]', or "
            "take bilinear."
        ) from error

    def resize(crop: Image.Image, width: int, height: int) -> Pixels:
        return np.asarray(cv2.resize(np.asarray(crop), (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return resize


def _size(encoded: Encoded) -> tuple[int, int]:
    if isinstance(encoded, np.ndarray):
        height, width, _ = _checked(encoded).shape
        return height, width
    with open_image(encoded) as image:
        return image.height, image.width


def _image(encoded: Encoded) -> Image.Image:
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(_checked(encoded))
    with open_image(encoded) as image:
        return image.convert("RGB")


def _checked(pixels: Pixels) -> Pixels:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels {pixels.shape} of {pixels.dtype} are not (H, W, 3) of uint8")
    return pixels


def open_image(encoded: bytes | memoryview) -> Image.Image:
    """An image whose header was read, and no pixels yet; raises what Pillow raises, and ValueError for a huge one."""
    if not len(encoded):
        raise ValueError("it is empty")
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}")
    return image


def reason_of(error: Exception) -> str:
    """What is said of a sample in whose decoding this was raised."""
    if isinstance(error, SampleError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "its content is no image that Pillow knows"
    return f"{error}" or type(error).__name__
