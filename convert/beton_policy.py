"""How images lie in FFCV's file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from loaders.errors import InputError


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

    def bytes_of(self, jpg_bytes: int, pixels: int) -> float:
        """What images of so many bytes as JPEGs and so many pixels take in the file, on average."""
        share = {"jpg": 1.0, "raw": 0.0, "proportion": self.share}[self.mode]
        return share * jpg_bytes + (1.0 - share) * 3 * pixels
