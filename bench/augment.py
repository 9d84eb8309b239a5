"""What augmentation costs one core of a processor, beside torchvision and timm."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import skimage.data
import torch
from torch import Tensor

from bench.options import check_positive
from bench.peers import augmenting
from bench.rows import append_rates
from bench.timing import measure
from loaders.augment import Augment, ColorJitter, Mix, Policy, RandAugment, TimmRandAugment
from loaders.augment.running import plainly

CPU = torch.device("cpu")


def augment(*, rounds: int = 5, seconds: float = 2.0, images: int = 128, size: int = 224) -> None:
    """Measures RandAugment and what follows it on one core, and adds rows to bench/results/augment.csv.

    Args:
        rounds: interleaved rounds.
        seconds: of each thing in one round.
        images: of a batch.
        size: side of the images in pixels.
    """
    check_positive(rounds=rounds, seconds=seconds, images=images, size=size)
    Mix().check_batch_size(images)
    torch.set_num_threads(1)
    pixels = photographs(images, size)
    planes = pixels.permute(0, 3, 1, 2).contiguous()
    runs: dict[str, Callable[[], int]] = {
        "ours": module_run(RandAugment(num_ops=2, magnitude=9), planes),
        "ours, plain torch": plain_run(RandAugment(num_ops=2, magnitude=9), pixels),
        "ours, as timm's": module_run(TimmRandAugment(magnitude=9), planes),
        "timm, each image": augmenting.timm_each(planes),
        "torchvision v2, each image": augmenting.torchvision_each(planes),
    }
    append_and_print("RandAugment", runs, rounds, seconds, {"images": images, "size": size})
    jitter = ColorJitter(brightness=augmenting.JITTER, contrast=augmenting.JITTER, saturation=augmenting.JITTER)
    runs = {
        "ours": whole_run(Augment(policy=jitter), pixels),
        "torchvision v2, each image": augmenting.torchvision_jitter(planes),
    }
    append_and_print("jitter and normalise", runs, rounds, seconds, {"images": images, "size": size})
    runs = {
        "the guide's": whole_run(Augment(policy=RandAugment(), mix=Mix()), pixels),
        "normalise only": whole_run(Augment(), pixels),
    }
    append_and_print("all of it", runs, rounds, seconds, {"images": images, "size": size})
    print(f"Draws and table of 1,024 samples: {table_seconds() * 1e3:.2f} ms.")


def append_and_print(
    what: str, runs: dict[str, Callable[[], int]], rounds: int, seconds: float, options: dict[str, int]
) -> None:
    """Measures things beside the last one of them."""
    rates = measure(runs, rounds=rounds, seconds=seconds, device=CPU)
    last = list(rates.values())[-1].median
    path = append_rates("augment", {f"{what}: {name}": rate for name, rate in rates.items()}, options, CPU)
    for name, rate in rates.items():
        print(
            f"{what}: {name}: {rate.median:,.0f} img/s a core ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}), "
            f"{rate.median / last:.2f}x"
        )
    print(f"Rows added to {path}: commit them.")


def photographs(count: int, size: int) -> Tensor:
    """Random crops of photographs: (count, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    sources = [np.tile(image, (2, 2, 1)) for image in (skimage.data.astronaut(), skimage.data.coffee())]
    found = []
    for place in range(count):
        source = sources[place % 2]
        top, left = (int(rng.integers(0, side - size)) for side in source.shape[:2])
        found.append(source[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(found))


def module_run(policy: Policy, planes: Tensor) -> Callable[[], int]:
    """The policy as a module: draws, table and operations."""
    planes = planes.contiguous(memory_format=torch.channels_last)
    return lambda: len(policy(planes))


def plain_run(policy: Policy, pixels: Tensor) -> Callable[[], int]:
    """The same by plain torch."""
    ids, steps = np.arange(len(pixels)), iter(range(2**32))

    def run() -> int:
        return len(plainly(pixels, policy.table(policy.draw(0, next(steps), ids), *pixels.shape[1:3])))

    return run


def whole_run(augment: Augment, pixels: Tensor) -> Callable[[], int]:
    """All that an `Augment` does, draws included, every call with others."""
    ids, steps = np.arange(len(pixels)), iter(range(2**32))
    return lambda: len(augment(pixels, augment.draw(0, next(steps), ids, pixels.shape[1])))


def table_seconds(samples: int = 1024, calls: int = 100) -> float:
    """Seconds of the guide's draws of operations and their table on the host."""
    policy, ids = RandAugment(), np.arange(samples)
    policy.table(policy.draw(0, 0, ids), 224, 224)
    start = time.perf_counter()
    for epoch in range(calls):
        policy.table(policy.draw(0, epoch, ids), 224, 224)
    return (time.perf_counter() - start) / calls
