"""The largest batch that fits: what `--batch_size auto` trains with.

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
_MOST = 4096  # images a rank and backward pass; beyond, none of the recipes has a rate
_SMALL = 4, 12  # images of the two steps on a CPU
# Of what a step holds: what is kept for the backward pass with as much of gradients and scratch memory, and what passes
# through the largest of the layers, which is all of it where a backbone is frozen.
_KEPT, _PASSING = 2, 3


@dataclass(frozen=True, slots=True)
class Fitted:
    """The batch that was found.

    Attributes:
        batch_size: a rank's and backward pass's, the same on all ranks.
        why: how it was found, for people.
    """

    batch_size: int
    why: str


def settle(recipe: Recipe, job: Job, world: World, *, auto: bool, start: Start | None) -> Recipe:
    """The recipe to train with: with the batch that fits where that is asked for and a run begins.

    A run that goes on keeps its total batch, which its learning rate belongs to, and a probe takes no steps.
    """
    return fitted(recipe, job, world) if auto and start is None and recipe.tune != "probe" else recipe


def fitted(recipe: Recipe, job: Job, world: World) -> Recipe:
    """The recipe with the largest batch that fits on every rank, which is said; the rate is scaled to it as always.

    Raises:
        InputError: where not even the smallest batch fits, or the data or the model cannot be used.
    """
    smallest = recipe.mix_group if recipe.mixes else 2
    with open_split(job, job.train_split, recipe.with_changes(batch_size=smallest), world, train=True) as loader:
        images, num_classes = loader.num_samples * recipe.repeats, len(loader.classes)
    # A set that is smaller than the smallest batch is refused by training itself.
    most = max(smallest, min(_MOST, images // (recipe.accumulate * world.world_size)))
    find = _on_card if world.device.type == "cuda" else _on_cpu
    found = find(recipe, num_classes, world, smallest, most)
    least = int(world.gather(torch.tensor(found.batch_size, device=world.device)).min())
    chosen = recipe.with_changes(batch_size=least)
    if world.is_main:
        print(
            f"Batch size {least}: {found.why}; total batch {chosen.total_batch(world.world_size)}, lr "
            f"{chosen.peak_lr(world.world_size):g}."
        )
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
        try:
            return size <= most and attempt(size)
        except torch.OutOfMemoryError:
            return False

    size = smallest
    if not fits(size):
        return 0
    while fits(2 * size):
        size *= 2
    between = size + size // 2
    return between if size > smallest and fits(between) else size


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

    size = largest(attempt, smallest, most)
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
    bound = min(most, recipe.batch_size)
    size = largest(lambda size: size * an_image <= available, smallest, bound)
    size = bound if bound % smallest == 0 and bound * an_image <= available else size
    if not size:
        raise InputError(
            f"not even {smallest} images of {recipe.size} pixels fit into {available / 2**20:,.0f} MiB of memory: take "
            "a smaller --size."
        )
    why = f"an image takes {an_image / 2**20:.1f} MiB of {available / 2**30:.1f} GiB"
    return Fitted(size, why + (", and no more than the recipe's on a CPU" if size == recipe.batch_size else ""))


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
