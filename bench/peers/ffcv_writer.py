"""FFCV's DatasetWriter over a torchvision ImageFolder, as FFCV's ImageNet example calls it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path


def write_with_ffcv(tree: Path, out: Path, *, max_side: int, quality: int, workers: int) -> int:
    """Writes a folder of class folders to a .beton of JPEGs.

    Returns:
        How many images.
    """
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(tree))
    image = RGBImageField(write_mode="jpg", max_resolution=max_side, jpeg_quality=quality)
    writer = DatasetWriter(str(out), {"image": image, "label": IntField()}, num_workers=workers)
    with contextlib.redirect_stderr(io.StringIO()):  # a bar
        writer.from_indexed_dataset(dataset)
    return len(dataset)
