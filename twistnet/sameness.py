"""What a run must not change when it goes on: its data, and how they are split into steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from loaders import InputError, Loader
from loaders.choosing import same_pixels
from twistnet.distributed import World
from twistnet.job import Job
from twistnet.recipe import Recipe

_NAMES = {
    "train_split": "training split",
    "val_split": "validation split",
    "classes": "list of classes",
    "samples": "number of training images",
    "fingerprint": "fingerprint of the training images",
    "val_fingerprint": "fingerprint of the validation images",
    "total_batch": "total batch",
}
# What a model of other classes, or a split that is not the run's own, could not go on with, whoever insists.
_NEVER = ("classes", "train_split", "val_split", "total_batch")


def data_of(job: Job, recipe: Recipe, world: World, train: Loader, val: Loader) -> dict[str, Any]:
    """What a checkpoint says of the data, and of the total batch that orders them."""
    return {
        "train_split": job.train_split,
        "val_split": job.val_split,
        "classes": list(train.classes),
        "samples": train.num_samples,
        "fingerprint": train.fingerprint,
        "val_fingerprint": val.fingerprint,
        "total_batch": recipe.total_batch(world.world_size),
    }


def changed_data(saved: Mapping[str, Any], here: Mapping[str, Any], *, force: bool) -> list[str]:
    """What of the data differs from a checkpoint's, a phrase each.

    Args:
        saved: the checkpoint's `data_of`.
        here: this start's.
        force: whether the run may go on with other data.

    Raises:
        InputError: for the first difference that may not be.
    """
    changed = [name for name in here if here[name] != saved[name]]
    for name in changed:
        if name in _NEVER or not force:
            instead = "" if name in _NEVER else ", pass --force to go on with these"
            raise InputError(
                f"the checkpoint has another {_NAMES[name]} ({_shown(saved[name])}) than this run "
                f"({_shown(here[name])}): resume on the same data and total batch{instead}, or start a new run."
            )
    return [f"{_NAMES[name]} {_shown(here[name])} instead of {_shown(saved[name])}" for name in changed]


def changed_decoder(saved: str | None, here: str, interpolation: str, *, force: bool) -> list[str]:
    """That images are decoded to other pixels than so far, as `changed_data` says it; empty where they are not.

    Args:
        saved: the decoder that a checkpoint names; None: it names none.
        here: this start's.
        interpolation: of the recipe.
        force: whether the run may go on with other pixels.

    Raises:
        InputError: where it may not.
    """
    if saved is None or same_pixels(saved, here, interpolation):
        return []
    if not force:
        raise InputError(
            f"the checkpoint's images were decoded by {saved}, of which decoder {here} makes other pixels: pass "
            f"--decoder {saved} or leave it out, pass --force to go on with {here}, or start a new run."
        )
    return [f"decoder {here} instead of {saved}"]


def refuse_different_starts(state: Mapping[str, Any] | None, world: World, folder: Path) -> None:
    """Raises InputError where ranks have not found the same checkpoint, as on nodes with folders of their own.

    Args:
        state: of the checkpoint that this rank has found; None: none.
        world: all of its ranks call this.
        folder: where they looked.
    """
    here = [-1, 0] if state is None else [state["epoch"], state["step_in_epoch"]]
    found = world.gather(torch.tensor(here, device=world.device)).tolist()
    if any(each != here for each in found):
        places = ", ".join(
            f"rank {rank} {'none' if epoch < 0 else f'epoch {epoch + 1} after step {step}'}"
            for rank, (epoch, step) in enumerate(found)
        )
        raise InputError(
            f"the ranks found different checkpoints in {folder} ({places}): put the folder on a disk that all nodes "
            "share, and start again."
        )


def _shown(value: Any) -> Any:
    return f"{value[:3]} and on, {len(value)}" if isinstance(value, list) else value
