"""result.json: what fine-tuning on a fold came to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders import InputError
from loaders.errors import one_line

RESULT = "result.json"
_AGAIN = "run that fold again, or remove its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What fine-tuning came to, as result.json holds it.

    Attributes:
        model: timm's name of it.
        dataset: as --dataset names it.
        fold: from 1.
        seed: of the recipe.
        recipe: its name.
        tune: what was trained, as the recipe has it.
        epochs: passes over the training split; 1 for a probe.
        val_top1: the best validation accuracy, 0 to 1.
        best_epoch: the epoch that it was reached after, from 1.
        test_top1: test accuracy of that epoch's weights, 0 to 1.
        test_top5: likewise among the first five.
        test_balanced: mean of the classes' own test accuracies, 0 to 1, over the classes that have test samples.
        test_samples: images that they were measured on.
        test_fingerprint: of these, their labels and order: equal only for the same test split of the same data.
        train_samples: images of the training split.
        num_classes: that are told apart.
        weights: what training began from, a file or timm's model; None for random weights.
        weights_sha256: of the file.
        images_per_s: trained on, over all ranks.
        seconds: that the run took, over all of its starts up to their checkpoints.
        step_seconds: of the last start, in training steps and waiting for their batches.
        eval_seconds: of these, in validation and the test; a probe's validation is part of its steps.
        parameters: of the model.
    """

    model: str
    dataset: str
    fold: int
    seed: int
    recipe: str
    tune: str
    epochs: int
    val_top1: float
    best_epoch: int
    test_top1: float
    test_top5: float
    test_balanced: float
    test_samples: int
    test_fingerprint: str
    train_samples: int
    num_classes: int
    weights: str | None
    weights_sha256: str | None
    images_per_s: float
    seconds: float
    step_seconds: float
    eval_seconds: float
    parameters: int


def read_result(path: Path) -> Result:
    """Reads a result.

    Raises:
        InputError: it cannot be read, or holds what no run of this version writes.
    """
    values = read_named(path)
    try:
        _check(values)
    except (KeyError, ValueError) as error:
        why = f"no {error.args[0]}" if isinstance(error, KeyError) else one_line(error, 120)
        raise InputError(f"{path} is left out ({why}): {_AGAIN}.") from error
    return Result(**{field.name: values[field.name] for field in dataclasses.fields(Result)})


def find_result(path: Path) -> Result | None:
    """A result; None where there is none, or one that is damaged or of an earlier version, which is made again."""
    try:
        return read_result(path)
    except InputError:
        return None


def read_named(path: Path) -> dict[str, Any]:
    """The named values of a JSON file of a fine-tuning run.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(getattr(error, "strerror", None) or error, 120)
        raise InputError(f"{path} cannot be read ({reason}): {_AGAIN}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no named values: {_AGAIN}.")
    return content


def _check(values: Mapping[str, Any]) -> None:
    """Raises KeyError or ValueError for what no run writes."""
    checks: tuple[tuple[Sequence[str], Callable[[Any], bool], str], ...] = (
        (("model", "dataset", "recipe", "tune", "test_fingerprint"), _is_name, "a name"),
        (
            ("fold", "epochs", "best_epoch", "test_samples", "train_samples", "num_classes", "parameters"),
            lambda value: type(value) is int and value >= 1,
            "a count",
        ),
        (("seed",), lambda value: type(value) is int, "a whole number"),
        (
            ("val_top1", "test_top1", "test_top5", "test_balanced"),
            lambda value: _is_number(value) and 0 <= value <= 1,
            "a share from 0 to 1",
        ),
        (("seconds", "step_seconds", "eval_seconds"), lambda value: _is_number(value) and value >= 0, "a time"),
        (("images_per_s",), lambda value: _is_number(value) and value >= 0, "a rate"),
        (("weights",), lambda value: value is None or _is_name(value), "a file's name"),
        (("weights_sha256",), lambda value: value is None or _is_name(value), "a checksum"),
    )
    for names, is_right, kind in checks:
        for name in names:
            if not is_right(values[name]):
                raise ValueError(f"{name} {values[name]!r} is not {kind}")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
