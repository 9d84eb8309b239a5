"""What augmentation costs the cores of a processor, beside torchvision and timm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
from torch import Tensor

from bench.options import check_positive
from bench.peers import augmenting
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from loaders.augment import Augment, ColorJitter, Mix, Policy, RandAugment, TimmRandAugment
from loaders.augment.finishing import finish_of
from loaders.augment.running import plainly
from loaders.draws import flips

CPU = torch.device("cpu")
DRAWN = 1024  # samples


def augment(*, batch_size: int = 128, size: int = 224, rounds: int = 5, seconds: float = 2.0, workers: int = 1) -> None:
    """Measures RandAugment and what follows it on the CPU, and adds rows to bench/results/augment.csv.

    Args:
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each thing in one round.
        workers: threads of torch, which the compiled library takes too; Pillow, and draws on the host, have one.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, workers=workers)
    check_results("augment")
    Mix().check_batch_size(batch_size)
    torch.set_num_threads(workers)
    pixels = photographs(batch_size, size)
    planes = pixels.permute(0, 3, 1, 2).contiguous()
    options = {"batch": batch_size, "size": size, "workers": workers}
    runs: dict[str, Callable[[], int]] = {
        "ours": module_run(RandAugment(num_ops=2, magnitude=9), planes),
        "ours, plain torch": plain_run(RandAugment(num_ops=2, magnitude=9), pixels),
        "ours, as timm's": module_run(TimmRandAugment(magnitude=9), planes),
        "timm, each image": augmenting.timm_each(planes),
        "torchvision v2, each image": augmenting.torchvision_each(planes),
    }
    append_and_print("RandAugment", runs, rounds, seconds, options)
    jitter = ColorJitter(brightness=augmenting.JITTER, contrast=augmenting.JITTER, saturation=augmenting.JITTER)
    runs = {
        "ours": whole_run(Augment(policy=jitter), pixels),
        "torchvision v2, each image": augmenting.torchvision_jitter(planes),
    }
    append_and_print("jitter and normalise", runs, rounds, seconds, options)
    guide = Augment(policy=RandAugment(), mix=Mix())
    runs = {
        "the guide's": whole_run(guide, pixels),
        "normalise only": whole_run(Augment(), pixels),
    }
    append_and_print("all of it", runs, rounds, seconds, options)
    runs = {
        "the guide's": table_run(guide, size),
        "operations only": table_run(Augment(policy=RandAugment()), size),
    }
    options = {"batch": DRAWN, "size": size, "workers": workers}
    path, rates = append_and_print("draws and tables", runs, rounds, seconds, options)
    for name, rate in rates.items():
        print(f"Draws and tables of {DRAWN:,} samples, {name}: {DRAWN / rate.median * 1e3:.2f} ms.")
    print(added(path))


def append_and_print(
    what: str, runs: dict[str, Callable[[], int]], rounds: int, seconds: float, options: dict[str, int]
) -> tuple[Path, dict[str, Rate]]:
    """Measures things beside the last one of them; the file of their rows, and their rates."""
    rates = measure(runs, rounds=rounds, seconds=seconds, device=CPU)
    last = list(rates.values())[-1].median
    path = append_rates("augment", {f"{what}: {name}": rate for name, rate in rates.items()}, options, CPU)
    for name, rate in rates.items():
        print(
            f"{what}: {name}: {rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n}, "
            f"workers={options['workers']}), {rate.median / last:.2f}x"
        )
    return path, rates


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


def table_run(augment: Augment, size: int) -> Callable[[], int]:
    """What the host does for a batch of `DRAWN` samples whose pixels are augmented elsewhere: every call another epoch.

    Draws of flips, operations and mixing, and the tables that compiled code and kernels read.
    """
    ids, epochs, policy = np.arange(DRAWN), iter(range(2**32)), augment.policy

    def run() -> int:
        epoch = next(epochs)
        flips(0, epoch, ids, 0.5)
        draws = augment.draw(0, epoch, ids, size)
        if policy is not None and draws.ops is not None:
            policy.table(draws.ops, size, size)
        finish_of(DRAWN, draws.erase, draws.mix)
        return DRAWN

    return run
