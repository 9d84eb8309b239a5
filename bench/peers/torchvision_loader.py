"""torchvision's ImageFolder under torch's DataLoader: as the pretraining guide has it, and on uint8 tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import InterpolationMode, v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batches(
    path: Path, *, batch_size: int, size: int, workers: int, augmented: bool = False
) -> Iterator[Iterator[int]]:
    """The guide's: Pillow, bicubic, normalised float32; one epoch after another, as numbers of images.

    Args:
        path: a tree with train/.
        batch_size: images of a batch.
        size: side of the images in pixels.
        workers: processes.
        augmented: whether RandAugment follows the flip, two operations of magnitude 9 of 31; nothing is mixed.
    """
    steps = [
        transforms.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        *([transforms.RandAugment(num_ops=2, magnitude=9)] if augmented else []),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    dataset = ImageFolder(str(path / "train"), transforms.Compose(steps))
    return epochs(dataset, batch_size, workers)


def uint8_batches(path: Path, *, batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    """What torchvision is fastest with: its own JPEG decoder and version 2 of its transforms on uint8, bilinear."""
    steps = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    dataset = ImageFolder(str(path / "train"), steps, loader=_decode)
    return epochs(dataset, batch_size, workers)


def _decode(path: str) -> torch.Tensor:
    pixels: torch.Tensor = decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
    return pixels


def epochs(dataset: Any, batch_size: int, workers: int) -> Iterator[Iterator[int]]:
    """One epoch of a DataLoader after another, as numbers of images; its processes stay."""
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        yield (len(images) for images, _ in loader)
