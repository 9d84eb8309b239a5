"""What a training command starts from: a named recipe with the user's changes, or a checkpoint's."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaders import InputError
from twistnet import recipes
from twistnet.arguments import convert, did_you_mean
from twistnet.recipe import Recipe, from_dict
from twistnet.run_folder import load_checkpoint


def start(
    resume: Path | None, recipe: str | None, default: str, world_size: int, **changes: Any
) -> tuple[Recipe, dict[str, Any] | None]:
    """The recipe of a run, and the checkpoint that it goes on from.

    Args:
        resume: the checkpoint, or None for a new run.
        recipe: its name as the user gave it, or None.
        default: the name that a new run takes otherwise.
        world_size: processes of this start.
        changes: fields of the recipe that the user gave; None leaves a field as it is.

    Raises:
        InputError: for an unknown recipe, or for a change that the checkpoint's run does not allow.
    """
    if resume is None:
        return recipes.named(recipe or default).with_changes(**changes), None
    checkpoint = load_checkpoint(resume)
    latest = resume.with_name("latest.pt")
    if resume.name != latest.name and latest.exists():
        raise InputError(
            f"resuming {resume} would overwrite {latest}, which is further on: resume that one, or copy {resume.name} "
            f"into a folder of its own first."
        )
    stored = from_dict(checkpoint["recipe"])
    wanted = {key: value for key, value in changes.items() if value is not None}
    if recipe is not None:
        wanted["name"] = recipe
    # How the total batch is split over ranks does not change the weights' meaning, so it may change.
    accumulate = wanted.pop("accumulate", stored.accumulate)
    if accumulate < 1:
        raise InputError(f"accumulate {accumulate} is too small: take at least 1.")
    total = checkpoint["data"]["total_batch"]
    batch_size = wanted.pop("batch_size", total // (world_size * accumulate))
    for key, value in wanted.items():
        if getattr(stored, key) != value:
            raise InputError(
                f"{'recipe' if key == 'name' else key} {value} differs from the {getattr(stored, key)} that {resume} "
                f"was trained with: leave it out, or start a new run."
            )
    if batch_size * accumulate * world_size != total:
        raise InputError(
            f"{world_size} ranks of batch size {batch_size} and {accumulate} accumulated batches make no total batch "
            f"of {total}, which {resume} was trained with: choose them so that they do."
        )
    return stored.with_changes(batch_size=batch_size, accumulate=accumulate), checkpoint


def settings(given: Sequence[str], /, **flags: Any) -> dict[str, Any]:
    """The changes of a recipe that `--set name=value,...` and the flags ask for together.

    Args:
        given: the elements of `--set`.
        flags: fields of the recipe that have flags of their own; None where they were not given.

    Raises:
        InputError: for what is no field of a recipe, has another type, or is given twice.
    """
    kinds = typing.get_type_hints(Recipe)
    found = dict(flags)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and name in kinds:
            raise InputError(f"--set {name} lacks its value: give --set {name}=VALUE.")
        if name == "name":
            raise InputError("--set name is the recipe's own: take --recipe.")
        if name not in kinds:
            raise InputError(
                f"--set {text} names no value of a recipe{did_you_mean(name, kinds) or ': see twistnet show.'}"
            )
        if found.get(name) is not None:
            raise InputError(f"--set {text} and {name} {found[name]} are both given: leave one out.")
        try:
            found[name] = convert(value, kinds[name])
            if found[name] is None:
                raise ValueError("stands for no value, which only leaving it out does")
        except ValueError as error:
            raise InputError(f"--set {name}: {value!r} {error}.") from None
    return found


def run_folder_of(resume: Path | None, folder: Path | None, default: Path, flag: str) -> Path:
    """The folder of a run: the resumed checkpoint's own, or the one that the user names.

    Raises:
        InputError: where both are given and differ.
    """
    if resume is None:
        return folder or default
    if folder is not None and folder.resolve() != resume.resolve().parent:
        raise InputError(f"{flag} {folder} is not the folder of --resume {resume}: leave it out.")
    return resume.parent
