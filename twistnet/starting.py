"""What a training command starts from: a named recipe with the user's changes, or a checkpoint's."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.ranks import Ranks
from loaders import InputError
from twistnet import recipes
from twistnet.arguments import convert, did_you_mean
from twistnet.recipe import Recipe, from_dict
from twistnet.resuming import find_checkpoint, split_batch

# Another model or optimiser has no use for the state of this one, and the name belongs to the values.
_NEVER = ("name", "model", "optimiser")


@dataclass(frozen=True, slots=True)
class Start:
    """A checkpoint that a run goes on from.

    Attributes:
        path: its file.
        state: what it holds.
        force: whether the run may go on with other data.
        changed: what of the recipe is no longer the checkpoint's, a phrase each.
    """

    path: Path
    state: dict[str, Any]
    force: bool = False
    changed: tuple[str, ...] = ()


def start(
    resume: Path | None,
    folder: Path,
    recipe: str | None,
    default: str,
    ranks: Ranks,
    *,
    force: bool = False,
    **changes: Any,
) -> tuple[Recipe, Start | None]:
    """The recipe of a run, and what it goes on from; None for a new one.

    Args:
        resume: the checkpoint, its folder or "auto", as `resuming.find_checkpoint` takes it; None for a new run.
        folder: of the run.
        recipe: its name as the user gave it, or None.
        default: the name that a new run takes otherwise.
        ranks: of this start; the first says which checkpoints cannot be read.
        force: whether the run may go on with another recipe.
        changes: fields of the recipe that the user gave; None leaves a field as it is.

    Raises:
        InputError: for an unknown recipe, or for a change that the checkpoint's run does not allow.
    """
    found = find_checkpoint(resume, folder, print if ranks.is_main else lambda _: None)
    if found is None:
        return recipes.named(recipe or default).with_changes(**changes), None
    path, checkpoint = found
    stored = from_dict(checkpoint["recipe"])
    wanted = {key: value for key, value in changes.items() if value is not None}
    if recipe is not None:
        wanted["name"] = recipe
    split = wanted.pop("batch_size", None), wanted.pop("accumulate", None)
    differing = {key: value for key, value in wanted.items() if getattr(stored, key) != value}
    for key, value in differing.items():
        if key in _NEVER or not force:
            instead = "" if key in _NEVER else ", pass --force to go on with it"
            raise InputError(
                f"{'recipe' if key == 'name' else key} {value} differs from the {getattr(stored, key)} that {path} "
                f"was trained with: leave it out{instead}, or start a new run."
            )
    changed = tuple(f"{key} {value} instead of {getattr(stored, key)}" for key, value in differing.items())
    stored = stored.with_changes(**differing)
    total = checkpoint["data"]["total_batch"]
    return split_batch(total, ranks.world_size, stored, *split), Start(path, checkpoint, force, changed)


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
