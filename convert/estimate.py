"""What a conversion will take, from a sample of its images: told before it starts, and refused where it cannot end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import shutil
import statistics
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convert.beton_policy import BetonPolicy, num_pages, page_size
from convert.images import BadImage, ImagePolicy, opened, store
from convert.progress import duration
from convert.scan import Ints, Scan
from convert.shard import TarWriter, read_bytes
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
        shard_s: seconds of writing the tars, reading included, on the given number of workers.
        beton_s: seconds of writing FFCV's file.
        exact: whether the bytes of the tars are known rather than estimated.
    """

    samples: int
    image_bytes: int
    shard_bytes: int
    beton_bytes: int
    shard_s: float
    beton_s: float
    exact: bool

    def of(self, samples: int, *, beton: bool) -> Estimate:
        """What some of the images take, with or without FFCV's file, which always holds all of them."""
        share = samples / self.samples
        return replace(
            self,
            samples=samples,
            image_bytes=round(self.image_bytes * share),
            shard_bytes=round(self.shard_bytes * share),
            shard_s=self.shard_s * share,
            beton_bytes=self.beton_bytes if beton else 0,
            beton_s=self.beton_s if beton else 0.0,
        )

    def bytes_of(self, share: float) -> int:
        """Of all files, for so many times the images."""
        return round(share * (self.shard_bytes + self.beton_bytes))

    def __str__(self) -> str:
        about = "" if self.exact and not self.beton_bytes else "about "
        total, seconds = (self.shard_bytes + self.beton_bytes) / 1e9, self.shard_s + self.beton_s
        rate = self.samples / seconds if seconds else 0.0
        return f"{self.samples:,} images, {about}{total:,.2f} GB, about {duration(seconds)} ({rate:,.0f} img/s)"


def estimate(scan: Scan, policy: ImagePolicy, beton: BetonPolicy | None, order: Ints, workers: int) -> Estimate:
    """Converts some images, the first of the shuffled order, and extrapolates.

    Raises:
        InputError: where none of them can be converted.
        OSError: where one cannot be read.
    """
    found, seconds, beton_sizes, beton_s = [], [], [], []
    with _one_thread(policy):
        for place in order[:SAMPLES]:
            member = scan.member(int(place))
            start = time.perf_counter()
            writer = TarWriter()
            writer.begin(io.BytesIO())
            try:
                stored = store(read_bytes(member), policy)
            except BadImage:
                continue
            zlib.crc32(stored.data)
            writer.add(member.key, stored.data, member.label)
            seconds.append(time.perf_counter() - start)
            found.append(stored)
            if beton is not None:
                start = time.perf_counter()
                data = (
                    stored.data
                    if beton.is_jpg(len(found))
                    else np.asarray(opened(stored.data).convert("RGB")).tobytes()
                )
                hashlib.sha256(bytearray(data))  # a copy into FFCV's page, and the checksum of its file
                beton_s.append(time.perf_counter() - start)
                beton_sizes.append(len(data))
    if not found:
        raise InputError(f"none of {min(SAMPLES, len(scan))} images of {scan.root} can be read: look at one of them.")
    # Repaired images are another number of bytes than they were.
    exact = policy.rule == "original" and not any(stored.repaired for stored in found)
    image_bytes = int(scan.length.sum()) if exact else round(statistics.fmean(len(s.data) for s in found) * len(scan))
    beton_bytes = 0
    if beton_sizes:
        page = page_size(max(beton_sizes))
        sampled = num_pages(beton_sizes * 8, page) / (8 * len(beton_sizes))
        beton_bytes = math.ceil(sampled * len(scan)) * page
    return Estimate(
        samples=len(scan),
        image_bytes=image_bytes,
        shard_bytes=image_bytes + len(scan) * (_MEMBERS + _FILLING),
        beton_bytes=beton_bytes,
        shard_s=statistics.fmean(seconds) * len(scan) / workers,
        beton_s=statistics.fmean(beton_s) * len(scan) if beton_s else 0.0,
        exact=exact,
    )


@contextlib.contextmanager
def _one_thread(policy: ImagePolicy) -> Iterator[None]:
    """As in the processes that write: one thread of torch's, and imports that are over."""
    if policy.rule == "original":
        yield
        return
    import torch
    import torchvision.io  # noqa: F401

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
