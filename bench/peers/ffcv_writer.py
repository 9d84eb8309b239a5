"""FFCV's DatasetWriter: over a torchvision ImageFolder, as FFCV's ImageNet example calls it, and of one image."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_with_ffcv(tree: Path, out: Path, *, max_side: int, quality: int, workers: int, mode: str = "jpg") -> int:
    """Writes a folder of class folders to a .beton of JPEGs, or with mode "raw" of pixels.

    Returns:
        How many images.
    """
    from ffcv.fields import RGBImageField
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(tree))
    image = RGBImageField(write_mode=mode, max_resolution=max_side, jpeg_quality=quality)
    _write(out, image, dataset, workers)
    return len(dataset)


def write_pixels_with_ffcv(out: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Writes one image of label 0, (H, W, 3), to a .beton of raw pixels."""
    from ffcv.fields import RGBImageField

    _write(out, RGBImageField(write_mode="raw"), [(pixels, 0)], workers=1)


def _write(out: Path, image: object, dataset: Sequence[object], workers: int) -> None:
    from ffcv.fields import IntField
    from ffcv.writer import DatasetWriter

    writer = DatasetWriter(str(out), {"image": image, "label": IntField()}, num_workers=workers)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar
        writer.from_indexed_dataset(dataset)
