"""timm's create_loader over its own dataset of folders, with RandAugment off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from timm.data import create_dataset, create_loader


def batches(path: Path, *, batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    """One epoch over a tree after another, each as the number of images of its batches, normalised float32."""
    loader = create_loader(
        create_dataset("folder", str(path), split="train"),
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=False,
        interpolation="bilinear",
        color_jitter=None,
        num_workers=workers,
        persistent_workers=True,
    )
    while True:
        yield (len(images) for images, _ in loader)
