"""FFCV's own Loader over a .beton, as its ImageNet example sets it up, as far as uint8 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, ToTensor


def batches(path: Path, *, batch_size: int, size: int, workers: int, fits: bool = True) -> Iterator[Iterator[int]]:
    """One epoch after another, each as the number of images of its batches.

    `fits`: whether the set fits in memory; FFCV has a way of reading, and an order, for those that do not.
    """
    loader = Loader(
        str(path),
        batch_size=batch_size,
        num_workers=workers,
        order=OrderOption.RANDOM if fits else OrderOption.QUASI_RANDOM,
        os_cache=fits,
        drop_last=True,
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    while True:
        yield (len(images) for images, _ in loader)
