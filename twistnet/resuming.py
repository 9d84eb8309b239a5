"""Which checkpoint a command goes on from, and how the total batch is split over the ranks of this start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaders import InputError
from twistnet.checkpoints import LATEST, load_checkpoint, newest
from twistnet.recipe import Recipe
from twistnet.reporting import counted

AUTO = "auto"


def find_checkpoint(
    resume: Path | None, folder: Path, say: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that a run goes on from, and what it holds; None for a new run.

    Args:
        resume: a checkpoint's path; a run's folder, or "auto" for `folder`: the newest there that can be read. With
            "auto" a folder without any begins a new run.
        folder: of this run.
        say: told of checkpoints that cannot be read.

    Raises:
        InputError: where the one that was named, or all of them, cannot be read, or where going on from it would
            overwrite one that is further on.
    """
    if resume is None:
        return None
    if str(resume) == AUTO:
        return newest(folder, say)
    if resume.is_dir():
        found = newest(resume, say)
        if found is None:
            raise InputError(f"{resume} holds no checkpoint of a run: name a folder with a {LATEST}, or pass auto.")
        return found
    checkpoint = load_checkpoint(resume)
    latest = resume.with_name(LATEST)
    if resume.name != LATEST and latest.exists() and not latest.samefile(resume):
        raise InputError(
            f"resuming {resume} would overwrite {latest}, which is further on: resume that one, or copy {resume.name} "
            f"into a folder of its own first."
        )
    return resume, checkpoint


def run_folder_of(resume: Path | None, folder: Path | None, default: Path, flag: str) -> Path:
    """The folder of a run: the resumed checkpoint's own, or the one that the user names.

    Raises:
        InputError: where both are given and differ.
    """
    if resume is None or str(resume) == AUTO:
        return folder or default
    own = resume if resume.is_dir() else resume.parent
    if folder is not None and folder.resolve() != own.resolve():
        raise InputError(f"{flag} {folder} is not the folder of --resume {resume}: leave it out.")
    return own


def split_batch(total: int, world_size: int, stored: Recipe, batch_size: int | None, accumulate: int | None) -> Recipe:
    """The stored recipe with its total batch split over another number of ranks: that changes no weights' meaning.

    Where neither is given, a rank takes as few passes a step as memory allows, that is with at most the images that
    it had in one. So it does where they are given and make the total on another number of ranks alone: that is the
    command of the first start, which torchrun repeats whatever has become of the others.

    Args:
        total: samples of a step over all ranks, which stays.
        world_size: ranks of this start.
        stored: the checkpoint's recipe.
        batch_size: a rank's images of a backward pass as the user gave it now.
        accumulate: backward passes a step, likewise.

    Raises:
        InputError: where they make another total, or none can.
    """
    if accumulate is not None and accumulate < 1:
        raise InputError(f"accumulate {accumulate} is too small: take at least 1.")
    group = stored.mix_group if stored.mixes else 1
    if total % world_size or (total // world_size) % group:
        able = [ranks for ranks in range(1, total // group + 1) if total % (ranks * group) == 0]
        raise InputError(
            f"{world_size} ranks cannot share a total batch of {total} in groups of {group} that are mixed: take "
            f"{_listed(able)} ranks, or start a new run."
        )
    own = total // world_size
    largest = batch_size or stored.batch_size
    images = batch_size or own // (accumulate or own)
    passes = accumulate or max(1, own // images)
    given = batch_size is not None or accumulate is not None
    if given and images * passes != own and total % (largest * (accumulate or 1)):
        raise InputError(
            f"{counted(world_size, 'rank')} of batch size {images} and accumulate {passes} cannot make the "
            f"total batch of {total} that the run was trained with: choose them so that they do, or leave them out."
        )
    if not given or images * passes != own:
        passes = next(n for n in range(1, own + 1) if own % n == 0 and own // n <= largest)
        images = own // passes
    return stored.with_changes(batch_size=images, accumulate=passes)


def _listed(numbers: list[int]) -> str:
    shown = [str(number) for number in numbers[:12]]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
