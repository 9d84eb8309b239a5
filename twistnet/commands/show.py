"""`twistnet show`: a recipe, resolved for a number of processes."""

from __future__ import annotations

import json

from loaders import InputError
from twistnet import recipe as recipes


def show(*, recipe: str = "guide", world_size: int = 1) -> None:
    """Prints a recipe with all its values, and what they come to on some processes.

    Args:
        recipe: guide, a1, a2, a3, dtd, demo or demo_dtd.
        world_size: processes (cards) of the run.
    """
    if world_size < 1:
        raise InputError(f"--world_size {world_size} is too small: it counts processes, from 1.")
    found = recipes.named(recipe)
    resolved = {"total_batch": found.total_batch(world_size), "peak_lr": found.peak_lr(world_size)}
    print(json.dumps({"recipe": found.to_dict(), f"on {world_size} processes": resolved}, indent=2))
