"""What augmentation reaches on a card: the kernels beside a copy of as many bytes, and beside other packages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.peers import augmenting
from bench.timing import Rate, measure
from loaders.augment import Augment, ColorJitter, Mix, RandAugment, ThreeAugment, TimmRandAugment

Run = Callable[[], int]


def augment_rates(
    device: torch.device, dtype: torch.dtype, batch_sizes: tuple[int, ...], size: int, rounds: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any], dict[str, Rate]]]:
    """Names, further options and rates, for every batch size: the whole of each policy, then ours beside the peers.

    Args:
        device: the card.
        dtype: of what the whole gives.
        batch_sizes: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each thing in one round.
    """
    has_kornia, has_triton_augment = map(augmenting.is_installed, ("kornia", "triton_augment"))
    for count in batch_sizes:
        more = {"batch": count}
        pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=device)
        runs = {
            "guide": whole(Augment(policy=RandAugment(), mix=Mix(), dtype=dtype), pixels),
            "RandAugment and normalise": whole(Augment(policy=RandAugment(), dtype=dtype), pixels),
            "timm's RandAugment and normalise": whole(Augment(policy=TimmRandAugment(), dtype=dtype), pixels),
            "three-augment and normalise": whole(Augment(policy=ThreeAugment(), dtype=dtype), pixels),
            "normalise only": whole(Augment(dtype=dtype), pixels),
            "copy of as many bytes": copied(pixels, dtype),
        }
        yield "augment", more, measure(runs, rounds=rounds, seconds=seconds, device=device)
        planes = pixels.permute(0, 3, 1, 2).contiguous()
        runs = {"ours": module(RandAugment(num_ops=2, magnitude=9), planes)}
        if has_kornia:
            runs["kornia"] = augmenting.kornia_batch(planes)
        runs |= {
            "torchvision v2, one draw a batch": augmenting.torchvision_batch(planes),
            "torchvision v2, each image": augmenting.torchvision_each(planes),
        }
        yield "RandAugment", more, measure(runs, rounds=rounds, seconds=seconds, device=device)
        jitter = ColorJitter(brightness=augmenting.JITTER, contrast=augmenting.JITTER, saturation=augmenting.JITTER)
        runs = {"ours": whole(Augment(policy=jitter), pixels)}
        if has_triton_augment:
            runs["triton-augment"] = augmenting.triton_augment_jitter(planes)
        runs["torchvision v2, each image"] = augmenting.torchvision_jitter(planes)
        yield "jitter and normalise", more, measure(runs, rounds=rounds, seconds=seconds, device=device)


def whole(augment: Augment, pixels: Tensor) -> Run:
    """All that an `Augment` does, but for the draws, which a loader makes ahead: eight of them, one after another."""
    ids, size = np.arange(len(pixels)), pixels.shape[1]
    draws = itertools.cycle([augment.draw(0, epoch, ids, size) for epoch in range(8)])
    return lambda: len(augment(pixels, next(draws)))


def module(policy: RandAugment, planes: Tensor) -> Run:
    """A policy as a module, uint8 to uint8."""
    planes = planes.contiguous(memory_format=torch.channels_last)
    return lambda: len(policy(planes))


def copied(pixels: Tensor, dtype: torch.dtype) -> Run:
    """A copy that reads and writes together as many bytes as one read of the pixels and one write of the result."""
    total = pixels.numel() * (1 + torch.finfo(dtype).bits // 8)
    source = torch.empty(total // 2, dtype=torch.uint8, device=pixels.device)
    target = torch.empty_like(source)

    def run() -> int:
        target.copy_(source)
        return len(pixels)

    return run
