"""How images lie in FFCV's file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError

MIN_PAGE, MAX_PAGE = 1 << 23, 1 << 31  # FFCV's default page, and the largest below its limit of 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class BetonPolicy:
    """How images lie in the file.

    Attributes:
        mode: "jpg", "raw" (pixels) or "proportion" (some of either).
        share: of JPEGs with "proportion", 0 to 1.
        seed: decides with the sample which those are.
    """

    mode: Literal["jpg", "raw", "proportion"] = "jpg"
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"proportion {self.share} is impossible: take the share of JPEGs, 0 to 1.")

    def is_jpg(self, sample: int) -> bool:
        """Whether a sample stays a JPEG: a function of seed and sample."""
        if self.mode != "proportion":
            return self.mode == "jpg"
        return zlib.crc32(b"%d %d" % (self.seed, sample)) < self.share * 2**32


def page_size(largest: int) -> int:
    """Bytes of a page of FFCV's file that the largest image fits into; one image never lies in two."""
    return max(MIN_PAGE, 1 << (largest - 1).bit_length())


def num_pages(sizes: Sequence[int] | npt.NDArray[np.int64], page: int) -> int:
    """How many pages FFCV fills with images of these sizes, one after another."""
    pages, room = 0, 0
    for size in map(int, sizes):
        if size > room:
            pages, room = pages + 1, page
        room -= size
    return pages
