"""`twistnet show`: a recipe, resolved for a number of processes."""

from __future__ import annotations

import json
from typing import Any

from loaders import InputError
from twistnet import recipes


def show(*, recipe: str = "guide", world_size: int = 1) -> None:
    """Prints a recipe with all its values, where it comes from, and what it comes to on some processes.

    Args:
        recipe: guide, a1, a2, a3, fast16, fast32, fast88, dtd, dtd_scratch, demo or demo_dtd.
        world_size: processes (cards) of the run.
    """
    if world_size < 1:
        raise InputError(f"--world_size {world_size} is too small: it counts processes, from 1.")
    found = recipes.named(recipe)
    resolved: dict[str, Any] = {"total_batch": found.total_batch(world_size), "peak_lr": found.peak_lr(world_size)}
    sizes = {epoch: found.size_at(epoch) for epoch in range(found.epochs)}
    if len(set(sizes.values())) > 1:  # by the epoch, from 0, that each begins with
        resolved["sizes"] = {epoch: size for epoch, size in sizes.items() if sizes.get(epoch - 1) != size}
    shown = {"recipe": found.to_dict(), "source": recipes.source(recipe), f"on {world_size} processes": resolved}
    print(json.dumps(shown, indent=2))
