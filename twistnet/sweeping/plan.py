"""Which runs a sweep has, where each lies, and what its folder was begun with."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders import InputError
from loaders.files import write_atomically
from twistnet.sweeping.claims import CLAIM, take

SWEEP = "sweep.json"
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a sweep.

    Attributes:
        model: timm's name.
        fold: from 1.
        seed: of initialisation, order and augmentation.
        weights: "auto", "none" or a file.
        folder: of the run's files.
    """

    model: str
    fold: int
    seed: int
    weights: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.model} fold {self.fold} seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        run_dir: the sweep's folder.
        models: timm's names, in the order of the table.
        folds: from 1.
        seeds: one run each.
        weights: of each model: "auto", "none" or a file.
    """

    run_dir: Path
    models: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    weights: Mapping[str, str]

    def __post_init__(self) -> None:
        for flag, values in (("models", self.models), ("folds", self.folds), ("seeds", self.seeds)):
            twice = [value for value, count in Counter[Any](values).items() if count > 1]
            if twice:
                raise InputError(f"--{flag} gives {twice[0]} twice: leave one.")

    @property
    def runs(self) -> list[Run]:
        """In the order in which they are begun: all models on one fold first, so that early means can be compared."""
        return [self.run(model, fold, seed) for seed in self.seeds for fold in self.folds for model in self.models]

    def run(self, model: str, fold: int, seed: int) -> Run:
        """The run of a model on a fold with a seed."""
        folder = self.run_dir / model / f"fold{fold:02d}-seed{seed}"
        return Run(model=model, fold=fold, seed=seed, weights=self.weights[model], folder=folder)


def weights_of(models: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """What each model starts from.

    Args:
        models: timm's names.
        given: a single "auto", "none" or file for all, or MODEL=that for some; the others then take "auto".

    Raises:
        InputError: for a model that is none of the sweep's or is given twice, and for a file that is not there.
    """
    if len(given) == 1 and "=" not in given[0]:
        found = dict.fromkeys(models, given[0])
    else:
        found = {}
        for text in given:
            model, equals, choice = text.partition("=")
            if not equals:
                raise InputError(f"--weights {text} stands beside others: write MODEL={text}, or {text} alone for all.")
            if model not in models:
                raise InputError(f"--weights {text} is for none of the models: take one of {', '.join(models)}.")
            if model in found:
                raise InputError(f"--weights gives {model} twice: leave one.")
            found[model] = choice
    for model, choice in found.items():
        if not choice:
            raise InputError(f"--weights of {model} is empty: name a file, auto or none.")
        if choice not in ("auto", "none"):
            path = Path(choice).expanduser()
            if not path.is_file():
                raise InputError(
                    f"there is no weights file {choice} for {model}: check the path, or take auto or none."
                )
            found[model] = str(path.resolve())
    return {model: found.get(model, "auto") for model in models}


def settle(run_dir: Path, asked: Mapping[str, Any], stale_s: float) -> None:
    """Writes what a sweep's folder is for, or holds the folder to it.

    Args:
        run_dir: the sweep's folder, which is made.
        asked: plain values, as sweep.json holds them; "weights" by model. More models do not make it another sweep.
        stale_s: as `claims.take` takes it, for the moment in which others that begin have to wait.

    Raises:
        InputError: where the folder holds another sweep; it says what differs. Where it is the folder of a run.
    """
    if (run_dir / "recipe.json").exists():
        raise InputError(f"{run_dir} is the folder of a run, not of a sweep: choose another --run_dir.")
    run_dir.mkdir(parents=True, exist_ok=True)
    while (claim := take(run_dir / CLAIM, stale_s, _go_on)) is None:
        time.sleep(_POLL_S)
    try:
        path = run_dir / SWEEP
        stored = read(path)
        if stored is None:
            merged = dict(asked)
        else:
            refuse_another(stored, asked, run_dir)
            merged = {**asked, "weights": {**stored["weights"], **asked["weights"]}}
        if merged != stored:
            text = json.dumps(merged, indent=2) + "\n"
            write_atomically(path, lambda file: file.write(text.encode()))
    finally:
        claim.release()


def _go_on() -> None:
    """Where the claim was lost: both have written the same kind of file, each whole."""


def read(path: Path) -> dict[str, Any] | None:
    """What a sweep.json holds; None where there is none.

    Raises:
        InputError: where it is no such file.
    """
    try:
        found = json.loads(path.read_text())
        if isinstance(found["changes"], dict) and isinstance(found["weights"], dict):
            return dict(found)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{path} does not say what the sweep was begun with: choose another --run_dir.")


def refuse_another(stored: Mapping[str, Any], asked: Mapping[str, Any], run_dir: Path) -> None:
    """Raises InputError where a folder's sweep is not the one that is asked for."""
    both = stored["weights"].keys() & asked["weights"].keys()
    pairs = [(name, stored.get(name), asked[name]) for name in ("data_dir", "dataset", "recipe")]
    changes = (stored["changes"], asked["changes"])
    pairs += [(name, *(each.get(name) for each in changes)) for name in sorted(changes[0].keys() | changes[1].keys())]
    pairs += [(f"weights of {model}", stored["weights"][model], asked["weights"][model]) for model in sorted(both)]
    differing = [f"{name} {_said(old)}, not {_said(new)}" for name, old, new in pairs if old != new]
    if differing:
        raise InputError(
            f"{run_dir} holds a sweep with {'; '.join(differing)}: choose another --run_dir, or ask for the same."
        )


def _said(value: Any) -> str:
    return "the recipe's own" if value is None else str(value)
