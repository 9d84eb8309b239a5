"""What a conversion will take, from a sample of its images: told before it starts, and refused where it cannot end."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from convert.beton_policy import BetonPolicy
from convert.images import BadImage, ImagePolicy, store
from convert.scan import Ints, Scan
from convert.shard import read_bytes
from loaders.errors import InputError
from loaders.files import existing_parent

SAMPLES = 64
_MEMBERS = 3 * 512  # two tar headers and a label's block for each image, and half a block of filling on average
_FILLING = 256
_MARGIN = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a conversion of one split will take.

    Attributes:
        samples: images.
        image_bytes: stored, all together.
        shard_bytes: of the tars.
        beton_bytes: of FFCV's file; 0 without one.
        seconds: of work, reading included, on the given number of workers.
        exact: whether the bytes are known rather than estimated.
    """

    samples: int
    image_bytes: int
    shard_bytes: int
    beton_bytes: int
    seconds: float
    exact: bool

    def __str__(self) -> str:
        about = "" if self.exact else "about "
        total = (self.shard_bytes + self.beton_bytes) / 1e9
        rate = self.samples / self.seconds if self.seconds else 0.0
        return f"{self.samples:,} images, {about}{total:,.2f} GB, about {_duration(self.seconds)} ({rate:,.0f} img/s)"


def estimate(scan: Scan, policy: ImagePolicy, beton: BetonPolicy | None, order: Ints, workers: int) -> Estimate:
    """Converts some images, the first of the shuffled order, and extrapolates.

    Raises:
        InputError: where none of them can be converted.
    """
    sizes, beton_sizes, seconds = [], [], []
    for place in order[:SAMPLES]:
        start = time.perf_counter()
        try:
            stored = store(read_bytes(scan.member(int(place))), policy)
        except BadImage:
            continue
        seconds.append(time.perf_counter() - start)
        sizes.append(len(stored.data))
        if beton is not None:
            beton_sizes.append(beton.bytes_of(len(stored.data), stored.height * stored.width))
    if not sizes:
        raise InputError(f"none of {min(SAMPLES, len(scan))} images of {scan.root} can be read: look at one of them.")
    exact = policy.rule == "original"
    image_bytes = int(scan.length.sum()) if exact else round(statistics.fmean(sizes) * len(scan))
    return Estimate(
        samples=len(scan),
        image_bytes=image_bytes,
        shard_bytes=image_bytes + len(scan) * (_MEMBERS + _FILLING),
        beton_bytes=round(statistics.fmean(beton_sizes) * len(scan)) if beton_sizes else 0,
        seconds=statistics.fmean(seconds) * len(scan) / workers,
        exact=exact,
    )


def refuse_a_small_disk(out: Path, needed: int, advice: str) -> None:
    """Raises InputError where the disk does not hold what is still to be written.

    Args:
        out: the folder, which need not exist.
        needed: bytes that are still to be written.
        advice: what can be done, for the message.
    """
    free, wanted = shutil.disk_usage(existing_parent(out)).free, int(needed * _MARGIN)
    if free < wanted:
        raise InputError(f"{out} needs {wanted / 1e9:,.2f} GB and its disk has {free / 1e9:,.2f} GB free: {advice}.")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
