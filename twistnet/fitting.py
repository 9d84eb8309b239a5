"""Passes that fit into memory: how `--batch_size auto` splits the recipe's batch, whose total and rate stay.

On a card steps are tried, ever larger, until memory does not suffice. On a CPU that would take the whole machine with
it: there two small steps tell what an image costs, by which the memory is divided.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loaders import Batch, InputError
from loaders.cores import usable_memory
from twistnet.building import make_model, open_split
from twistnet.distributed import World
from twistnet.job import Job
from twistnet.precision import Precision, use_fast_kernels
from twistnet.recipe import Recipe
from twistnet.starting import Start
from twistnet.step import TrainStep

SHARE = 0.9  # of the memory that a step may take: what is left is for batches on their way, and validation
_SMALL = 4, 12  # images of the two steps on a CPU
# Of what a step holds: what is kept for the backward pass with as much of gradients and scratch memory, and what passes
# through the largest of the layers, which is all of it where a backbone is frozen.
_KEPT, _PASSING = 2, 3


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fits.

    Attributes:
        batch_size: the most images of a backward pass.
        why: how it was found, for people.
    """

    batch_size: int
    why: str


def fit_batch(recipe: Recipe, job: Job, world: World, *, auto: bool, start: Start | None) -> Recipe:
    """The recipe to train with: in passes that fit where that is asked for and a run begins.

    A run that goes on keeps its passes, and a probe takes no steps.
    """
    return fitted(recipe, job, world) if auto and start is None and recipe.tune != "probe" else recipe


def fitted(recipe: Recipe, job: Job, world: World) -> Recipe:
    """The recipe with its batch in as few passes a step as every rank has the memory for, which is said.

    Raises:
        InputError: where not even the smallest pass fits, or the data or the model cannot be used.
    """
    smallest, own = recipe.mix_group if recipe.mixes else 2, recipe.batch_size * recipe.accumulate
    with open_split(job, job.train_split, recipe.with_changes(batch_size=smallest), world, train=True) as loader:
        num_classes, images = len(loader.classes), loader.num_samples * recipe.repeats
    if own * world.world_size > images:
        raise InputError(
            f"the recipe's batch of {own} a process is more than the {images:,} images of {job.train_split} allow: "
            "give --batch_size a number."
        )
    find = _on_card if world.device.type == "cuda" else _on_cpu
    found = find(recipe, num_classes, world, smallest, own)
    least = int(world.gather(torch.tensor(found.batch_size, device=world.device)).min())
    sizes = (own // passes for passes in range(1, own // smallest + 1) if own % passes == 0)
    batch_size = next((size for size in sizes if size <= least and size % smallest == 0), 0)
    if not batch_size:
        raise InputError(
            f"a batch of {own} has no part of at most {least} images, which fit into memory, in whole groups of "
            f"{smallest}: take a --batch_size that is a multiple of {smallest}."
        )
    chosen = recipe.with_changes(batch_size=batch_size, accumulate=own // batch_size)
    if world.is_main:
        total = f"total batch {chosen.total_batch(world.world_size)}, lr {chosen.peak_lr(world.world_size):g}"
        print(f"Batch size {batch_size}, {chosen.accumulate} to a step: {found.why}; {total}.")
    return chosen


def largest(attempt: Callable[[int], bool], smallest: int, most: int) -> int:
    """The largest batch that fits, of `smallest` times 1, 2, 3, 4, 6, 8, 12, 16, ..., by doubling and one step back.

    Args:
        attempt: whether a batch of that size fits; running out of memory says no.
        smallest: the unit, at least 1.
        most: the bound.

    Returns:
        0 where not even the smallest fits.
    """

    def fits(size: int) -> bool:
        return size <= most and _fits(attempt, size)

    size = smallest
    if not fits(size):
        return 0
    while fits(2 * size):
        size *= 2
    between = size + size // 2
    return between if size > smallest and fits(between) else size


def _fits(attempt: Callable[[int], bool], size: int) -> bool:
    try:
        return attempt(size)
    except torch.OutOfMemoryError:
        return False


def _on_card(recipe: Recipe, num_classes: int, world: World, smallest: int, most: int) -> Fitted:
    use_fast_kernels(world.device)
    whole = torch.cuda.get_device_properties(world.device).total_memory
    alone = World(rank=0, world_size=1, device=world.device)  # ranks may fail at different sizes

    def attempt(size: int) -> bool:
        _free()
        torch.cuda.reset_peak_memory_stats(world.device)
        try:
            _take_step(recipe, num_classes, alone, size)
            free, _ = torch.cuda.mem_get_info(world.device)
            others = whole - free - torch.cuda.memory_reserved(world.device)  # the context's, and other processes'
            return torch.cuda.max_memory_reserved(world.device) + others <= SHARE * whole
        finally:
            _free()

    size = most if _fits(attempt, most) else largest(attempt, smallest, most)
    _free()  # of what the last attempt's error still held
    if not size:
        raise InputError(
            f"not even {smallest} images of {recipe.size} pixels fit onto the card: take a smaller --size."
        )
    return Fitted(size, f"the largest that a step was seen to fit, within {SHARE:.0%} of {whole / 2**30:.0f} GiB")


def _on_cpu(recipe: Recipe, num_classes: int, world: World, smallest: int, most: int) -> Fitted:
    alone = World(rank=0, world_size=1, device=world.device)
    held = [_take_step(recipe, num_classes, alone, size) for size in _SMALL]
    an_image = max(1, (held[1] - held[0]) // (_SMALL[1] - _SMALL[0]))
    # All ranks may be on one machine.
    available = SHARE * available_memory() / world.world_size
    size = min(most, int(available // an_image))
    if size < smallest:
        raise InputError(
            f"not even {smallest} images of {recipe.size} pixels fit into {available / 2**20:,.0f} MiB of memory: take "
            "a smaller --size."
        )
    return Fitted(size, f"an image takes {an_image / 2**20:.1f} MiB of {available / 2**30:.1f} GiB")


def _take_step(recipe: Recipe, num_classes: int, world: World, size: int) -> int:
    """Takes one whole step with a batch of nothing; the bytes that it held at once, by what it kept and computed."""
    kept: dict[int, int] = {}
    largest_output = 0

    def look(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest_output
        if isinstance(output, Tensor):
            largest_output = max(largest_output, output.nbytes)

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model = make_model(recipe, num_classes, world)
    step = TrainStep(model, recipe.with_changes(accumulate=1), world)
    step.start_training()
    batch = _batch(recipe, size, num_classes, world)
    for module in model.modules():
        module.register_forward_hook(look)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(batch, 0, 0.0, lambda *_: None)
    return _KEPT * sum(kept.values()) + _PASSING * largest_output


def _batch(recipe: Recipe, size: int, num_classes: int, world: World) -> Batch:
    device, dtype = world.device, Precision.choose(world.device, recipe.amp).dtype
    images = torch.zeros(size, 3, recipe.size, recipe.size, device=device, dtype=dtype)
    labels = torch.arange(size, device=device) % num_classes
    ones = torch.ones(size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images, labels, labels, ones, ones.bool(), torch.arange(size))


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes that this machine, or the cgroup of this process, could give without swapping."""
    limit = usable_memory()
    if not meminfo.exists():
        return limit
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return min(limit, int(fields["MemAvailable"].split()[0]) * 1024)
