"""Sizes of images by their headers alone: the compiled library's for JPEGs where it is there, else the reference's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, of_images
from loaders.native.library import library, why_missing
from loaders.reference import ReferenceDecoder
from loaders.types import Failures

GONE = "its file was cut meanwhile, or its disk fails"


def image_sizes(data: Sequence[Encoded], reference: ReferenceDecoder) -> tuple[npt.NDArray[np.int64], Failures]:
    """Heights and widths in pixels, as `Decoder.sizes` gives them.

    Args:
        data: encoded images and raw pixels.
        reference: asked about what the library does not know.
    """
    if why_missing():
        return reference.sizes(data)
    images = of_images(data)
    sizes = images.shapes.copy()
    arrays = (images.addresses, images.lengths, sizes)
    library().twistnet_sizes(len(images), *(array.ctypes.data for array in arrays))
    failures = dict.fromkeys(np.flatnonzero(sizes[:, 0] < 0).tolist(), GONE)
    others = np.flatnonzero(sizes[:, 0] == 0)
    if len(others):
        sizes[others], found = reference.sizes(images.some(others))
        failures |= {int(others[place]): reason for place, reason in found.items()}
    return sizes, failures
