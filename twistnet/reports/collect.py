"""The runs below a folder, those that are alike together, and what is missing among them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loaders import InputError
from loaders.errors import one_line
from twistnet.result import RESULT, Result, read_named, read_result
from twistnet.run_folder import RunFolder
from twistnet.sweeping.plan import SWEEP
from twistnet.sweeping.states import ERROR

RECIPE = "recipe.json"
_NAMED_BY_RESULT = ("name", "model", "epochs", "seed")
_NAMED = 5  # folders in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Result):
    """A finished run, as its result.json and recipe.json have it.

    Attributes:
        folder: the run's.
        size: side of the test images in pixels.
        settings: what else its recipe says, by name, each value as JSON writes it.
    """

    folder: Path
    size: int
    settings: Mapping[str, str]

    @property
    def pair(self) -> tuple[int, int]:
        """Fold and seed, by which runs of different models are paired."""
        return (self.fold, self.seed)

    @property
    def pretrained(self) -> bool:
        """Whether training began from weights."""
        return self.weights is not None

    @property
    def origin(self) -> str | None:
        """What tells the weights that training began from from others, wherever their file was."""
        return self.weights_sha256 or self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Runs that differ in fold and seed alone.

    Attributes:
        label: the model, and in parentheses what sets it apart from others on the same data set.
        runs: by fold and seed, each once.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def model(self) -> str:
        """Its name at timm."""
        return self.runs[0].model

    @property
    def folds(self) -> int:
        """How many it has been run on."""
        return len({run.fold for run in self.runs})

    @property
    def seeds(self) -> int:
        """How many it has been run with."""
        return len({run.seed for run in self.runs})


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows of one data set.

    Attributes:
        dataset: its name, with what tells it from others of that name.
        common: what all of its runs share, in words.
        rows: in the order of their mean test accuracy.
    """

    dataset: str
    common: str
    rows: tuple[Row, ...]

    @property
    def test_to_train(self) -> float:
        """Samples of a fold's test split over those of its training split: the mean, for folds differ by a few."""
        return statistics.fmean(run.test_samples / run.train_samples for row in self.rows for run in row.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is below a folder: tables by name of their data set, and sentences about what to know of them."""

    tables: tuple[Table, ...]
    warnings: tuple[str, ...]


def collect(run_dir: Path) -> Found:
    """Reads every result below a folder.

    Raises:
        InputError: there is no such folder, or no result in it that can be read.
    """
    if not run_dir.is_dir():
        raise InputError(f"{run_dir} is no folder: name that of a sweep, or of several runs.")
    runs: list[Run] = []
    warnings: list[str] = []
    for path in sorted(run_dir.rglob(RESULT)):
        try:
            runs.append(_read(path.parent))
        except InputError as error:
            warnings.append(str(error))
    warnings += _unfinished(run_dir)
    if not runs:
        said = f" ({warnings[0].rstrip('.')})" if warnings else ""
        raise InputError(f"{run_dir} holds no result of a finished fine-tuning run{said}: run twistnet finetune first.")
    by_dataset: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_dataset[run.dataset].append(run)
    tables = []
    for dataset, some in sorted(by_dataset.items()):
        sets = _sets(dataset, some)
        if len(sets) > 1:
            first = "; ".join(f"{name}, as of {of_it[0].folder}" for name, of_it in sets.items())
            warnings.append(f"{dataset}: kept in tables of their own, for they are of different data: {first}.")
        for name, of_it in sets.items():
            table, said_of_it = _table(name, of_it)
            tables.append(table)
            warnings += said_of_it
    return Found(tables=tuple(tables), warnings=tuple(warnings))


def _read(folder: Path) -> Run:
    result, recipe = read_result(folder / RESULT), read_named(folder / RECIPE)
    try:
        # How many images a step takes is the setting; in how many passes, the machine's.
        batch = recipe["batch_size"] * recipe["accumulate"]
        kept = {name: value for name, value in recipe.items() if name not in (*_NAMED_BY_RESULT, "accumulate")}
        settings = {name: json.dumps(value) for name, value in {**kept, "batch_size": batch}.items()}
        size = int(recipe["eval_size"])
    except (KeyError, TypeError, ValueError) as error:
        why = f"no {error.args[0]}" if isinstance(error, KeyError) else one_line(error, 120)
        raise InputError(
            f"{folder / RESULT} is left out ({why}): run that fold again, or remove its folder."
        ) from error
    return Run(folder=folder, size=size, settings=settings, **dataclasses.asdict(result))


def _unfinished(run_dir: Path) -> list[str]:
    """A sentence about the runs without a result; none where all have one."""
    folders = {path.parent for name in (RECIPE, ERROR) for path in run_dir.rglob(name)}
    found = [f"{folder}{_how_far(folder)}" for folder in sorted(folders) if not (folder / RESULT).exists()]
    if not found:
        return []
    has = "1 run has" if len(found) == 1 else f"{len(found)} runs have"
    return [f"{has} no result, unfinished or failed: {named(found)}; start again what was to run them."]


def _how_far(folder: Path) -> str:
    """In parentheses, why a run has failed, or else after which epoch it stands; nothing of one without either."""
    if (folder / ERROR).exists():
        said = one_line((folder / ERROR).read_text(errors="replace").partition("\n")[0], 200)
        return f" ({said.rstrip('.') or 'failed'})"
    epochs = [row["epoch"] for row in RunFolder(folder).rows() if row.get("kind") == "epoch"]
    return f" (after epoch {epochs[-1]})" if epochs else ""


def _sets(dataset: str, runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs on data sets of one name by the data that they are of: of as many classes, and a fold has one test split.

    A sweep is of one set, and those of the most folds come first: a fold that only one of two has then goes with its
    own. Runs that share no fold with others are taken to be of the same set, for nothing says otherwise.

    Returns:
        Runs in their order by the name of their set.
    """
    by_classes: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_classes[run.num_classes].append(run)
    found: dict[str, list[Run]] = {}
    for classes, of_them in sorted(by_classes.items()):
        sweeps: dict[Path, list[Run]] = defaultdict(list)
        for run in of_them:
            sweep = run.folder.parent.parent
            sweeps[sweep if (sweep / SWEEP).exists() else run.folder].append(run)
        parts = [part for sweep in sweeps.values() for part in ([sweep] if _agree(sweep) else [[run] for run in sweep])]
        sets: list[list[Run]] = []
        for part in sorted(parts, key=lambda part: -len(_splits(part))):
            fitting = [some for some in sets if _agree([*some, *part])]
            if fitting:
                max(fitting, key=lambda some: len(_splits(some) & _splits(part))).extend(part)
            else:
                sets.append(part)
        name = f"{dataset} ({classes} classes)" if len(by_classes) > 1 else dataset
        for number, some in enumerate(sets, start=1):
            which = {1: "", 2: ", another set"}.get(number, f", set {number}")
            found[f"{name}{which}"] = sorted(some, key=lambda run: run.folder)
    return found


def _splits(runs: Iterable[Run]) -> set[tuple[int, str]]:
    return {(run.fold, run.test_fingerprint) for run in runs}


def _agree(runs: Sequence[Run]) -> bool:
    """Whether all runs of a fold were tested on the same samples."""
    return len(_splits(runs)) == len({run.fold for run in runs})


def _table(dataset: str, runs: Sequence[Run]) -> tuple[Table, list[str]]:
    said = {id(run): _said(run) for run in runs}
    shared = [len(set(kinds)) == 1 for kinds in zip(*said.values(), strict=True)]
    alike: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        alike[(run.model, *said[id(run)])].append(run)
    rows: list[Row] = []
    compared: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    warnings: list[str] = []
    origins = {model: _origins(run for run in runs if run.model == model) for model in {run.model for run in runs}}
    for group in alike.values():
        apart = [kind for kind, is_shared in zip(said[id(group[0])], shared, strict=True) if not is_shared]
        for changes, some in _by_settings(group, origins[group[0].model]).items():
            differing = ", ".join((*apart, *changes))
            label = f"{group[0].model} ({differing})" if differing else group[0].model
            rows.append(Row(label=label, runs=_each_once(label, some, warnings)))
            compared[said[id(group[0])]].append(rows[-1])
    by_model: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row.label)
    several = ["; ".join(labels) for labels in by_model.values() if len(labels) > 1]
    warnings += [f"{dataset}: kept in rows of their own, for they are not alike: {labels}." for labels in several]
    for some_rows in compared.values():  # a probe on one fold lacks none of the folds that were trained on
        warnings += _missing(dataset, some_rows)
    rows.sort(key=lambda row: (sum(run.test_top1 for run in row.runs) / len(row.runs), row.label))
    common = ", ".join(kind for kind, is_shared in zip(said[id(runs[0])], shared, strict=True) if is_shared)
    return Table(dataset=dataset, common=common, rows=tuple(rows)), warnings


def _said(run: Run) -> tuple[str, ...]:
    """What has to be the same of runs that are averaged, besides their model, in words."""
    tuned = {"all": "all layers", "probe": "linear probe"}.get(run.tune, f"{run.tune} only")
    epochs = "1 epoch" if run.epochs == 1 else f"{run.epochs} epochs"
    return f"recipe {run.recipe}", epochs, tuned, "pretrained" if run.pretrained else "from scratch"


def _origins(runs: Iterable[Run]) -> dict[str | None, str]:
    """The names of the weights that a model's runs began from, with a checksum where files share one, by origin.

    Returns:
        Nothing where there are none to tell apart.
    """
    names: dict[str | None, str] = {}
    for run in runs:
        if run.weights is not None:
            names.setdefault(run.origin, Path(run.weights).name if run.weights_sha256 else run.weights)
    if len(names) < 2:
        return {}
    files = Counter(names.values())
    return {
        origin: f"from {name} {origin[:8]}" if origin and files[name] > 1 else f"from {name}"
        for origin, name in names.items()
    }


def _by_settings(runs: Sequence[Run], origins: Mapping[str | None, str]) -> dict[tuple[str, ...], list[Run]]:
    """Runs by the weights that they began from and those values of their recipes that not all share, as name=value."""
    names = sorted({name for run in runs for name in run.settings})
    differing = [name for name in names if len({run.settings.get(name) for run in runs}) > 1]
    found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        settings = [f"{name}={run.settings.get(name, 'null')}" for name in differing]
        found[tuple([origins[run.origin], *settings] if run.origin in origins else settings)].append(run)
    return dict(sorted(found.items()))


def _each_once(label: str, runs: Iterable[Run], warnings: list[str]) -> tuple[Run, ...]:
    kept: dict[tuple[int, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run.pair, run.folder)):
        if run.pair in kept:
            warnings.append(
                f"{run.folder} is left out: {kept[run.pair].folder} has fold {run.fold} and seed {run.seed} of {label} "
                "already."
            )
        kept.setdefault(run.pair, run)
    return tuple(kept.values())


def _missing(dataset: str, rows: Sequence[Row]) -> list[str]:
    folds = sorted({run.fold for row in rows for run in row.runs})
    seeds = sorted({run.seed for row in rows for run in row.runs})
    warnings = []
    for row in rows:
        there = {run.pair for run in row.runs}
        lacks = [f"fold {fold} seed {seed}" for fold in folds for seed in seeds if (fold, seed) not in there]
        if lacks:
            warnings.append(
                f"{dataset}: {row.label} lacks {len(lacks)} of {len(folds) * len(seeds)} runs: {named(lacks)}."
            )
    return warnings


def named(names: Sequence[str], between: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{between.join(names[:_NAMED])}{more}"
