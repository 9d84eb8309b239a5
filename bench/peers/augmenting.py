"""RandAugment and colour jitter by other packages, on batches that are decoded: uint8 to uint8 unless said."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from timm.data import rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2

from loaders.augment import IMAGENET_MEAN, IMAGENET_STD

Run = Callable[[], int]
JITTER = 0.4


def torchvision_each(images: Tensor) -> Run:
    """torchvision's version 2 on every image by itself, as a data set's transform does it: draws for each."""
    augment = v2.RandAugment(num_ops=2, magnitude=9)

    def run() -> int:
        for image in images:
            augment(image)
        return len(images)

    return run


def torchvision_batch(images: Tensor) -> Run:
    """The same on the batch as a whole, which then has one draw."""
    augment = v2.RandAugment(num_ops=2, magnitude=9)

    def run() -> int:
        augment(images)
        return len(images)

    return run


def timm_each(images: Tensor) -> Run:
    """timm's on Pillow images, which it takes alone."""
    augment = rand_augment_transform("rand-m9-n2", {})
    pictures = [Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in images.cpu()]

    def run() -> int:
        for picture in pictures:
            augment(picture)
        return len(pictures)

    return run


def kornia_batch(images: Tensor) -> Run:
    """kornia's, on float32 images of 0 to 1: two operations for the whole batch, and signs for each image."""
    from kornia.augmentation.auto import RandAugment

    augment = RandAugment(n=2, m=9)
    values = images.float().div_(255.0)

    def run() -> int:
        augment(values)
        return len(images)

    return run


def torchvision_jitter(images: Tensor) -> Run:
    """Colour jitter, then float32 and normalised, every image by itself."""
    augment = v2.Compose(
        [
            v2.ColorJitter(JITTER, JITTER, JITTER),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def run() -> int:
        for image in images:
            augment(image)
        return len(images)

    return run


def triton_augment_jitter(images: Tensor) -> Run:
    """triton-augment's fused colour jitter and normalisation, of float32 images of 0 to 1; on a card."""
    from triton_augment import TritonColorJitterNormalize

    augment = TritonColorJitterNormalize(
        brightness=JITTER, contrast=JITTER, saturation=JITTER, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    values = images.float().div_(255.0)

    def run() -> int:
        augment(values)
        return len(images)

    return run


def is_installed(module: str) -> bool:
    """Whether a peer can be measured; where it cannot, says what installs it. None is in an extra of this package."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        package = module.replace("_", "-")
        print(f"Left out: {package} is not installed (pip install {package}).")
    return found
