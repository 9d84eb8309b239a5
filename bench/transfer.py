"""What pretraining brings to textures: models fine-tuned from pretrained weights and from scratch, over several seeds.

Photographs and textures are the demo's and the miniature of DTD, which share no pixel. Both starts have the same
recipe, epochs, folds and seeds, so that runs differ in pairs by their first weights alone.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.options import check_positive
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from convert.photographs import NUM_FOLDS, make_demo_sets, make_miniature_dtd
from loaders import InputError
from twistnet import environment
from twistnet.arguments import bind
from twistnet.building import check_model
from twistnet.commands.pretrain import pretrain
from twistnet.commands.sweep import sweep
from twistnet.distributed import choose_device
from twistnet.recipes import named
from twistnet.reports.statistics import Pair, summary
from twistnet.sweeping.plan import Plan

PRETRAINED, SCRATCH = STARTS = ("pretrained", "scratch")
RECIPE, TUNING_RECIPE = "demo", "demo_dtd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The runs of one model from one start.

    Attributes:
        model: timm's name.
        start: "pretrained" or "scratch".
        runs: what each run's result.json holds, by fold and seed.
    """

    model: str
    start: str
    runs: Mapping[Pair, Mapping[str, Any]]

    def values(self, name: str) -> dict[Pair, float]:
        """One value of all runs."""
        return {pair: result[name] for pair, result in self.runs.items()}


def transfer(
    *,
    models: tuple[str, ...] = ("twistnet18", "resnet18"),
    folds: tuple[int, ...] = (1, 2, 3),
    seeds: tuple[int, ...] = (42, 43, 44),
    epochs: int = 10,
    tuning_epochs: int = 6,
    size: int = 64,
    photographs: int = 64,
    per_class: int = 12,
    run_dir: Path | None = None,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Fine-tunes models on textures from pretrained weights and from scratch, and adds rows to transfer.csv.

    Each model is pretrained once, by the demo's recipe on its photographs; a miniature of DTD is fine-tuned on.

    Args:
        models: names that timm knows.
        folds: of the miniature, which has ten.
        seeds: of fine-tuning: initialisation, order and augmentation; each is a run of every fold.
        epochs: of pretraining.
        tuning_epochs: of fine-tuning, from either start.
        size: side of the images in pixels.
        photographs: images of each of the classes to pretrain on.
        per_class: images of a texture, a third for each split of a fold.
        run_dir: folder that keeps sets and runs, so that the same command goes on there; none are kept unless given.
        workers: decoding threads; the usable cores unless given.
        device: where to train; auto takes a CUDA card where there is one.
    """
    check_positive(epochs=epochs, tuning_epochs=tuning_epochs, size=size, photographs=photographs, workers=workers)
    check_results("transfer")
    for model in models:
        check_model(model)
    for fold in folds:
        if not 1 <= fold <= NUM_FOLDS:
            raise InputError(f"--folds {fold} is none of the miniature's: take some of 1 to {NUM_FOLDS}.")
    for name, given in (("models", models), ("folds", folds), ("seeds", seeds)):
        if not given:
            raise InputError(f"--{name} is empty: give at least one.")
    for seed in seeds:  # before minutes of pretraining
        named(TUNING_RECIPE).with_changes(epochs=tuning_epochs, size=size, seed=seed)
    about = environment.describe(choose_device(device, 0))
    common: dict[str, Any] = {"size": size, "workers": workers, "device": device}
    with _kept(run_dir) as folder:
        runs = {model: folder / "pretraining" / model for model in models}
        weights = {
            PRETRAINED: {model: str(run / f"{model}_imagenet.pt") for model, run in runs.items()},
            SCRATCH: dict.fromkeys(models, "none"),
        }
        plans = {
            start: Plan(run_dir=folder / start, models=models, folds=folds, seeds=seeds, weights=weights[start])
            for start in STARTS
        }
        textures = make_miniature_dtd(folder / "textures", per_class=per_class)
        sets = make_demo_sets(folder / "sets", train_per_class=photographs)
        for model, run in runs.items():
            print(f"Pretraining {model} on {sets.num_train:,} photographs of {sets.num_subjects} classes")
            pretrain(
                data_dir=sets.photographs,
                recipe=RECIPE,
                model=model,
                epochs=epochs,
                seed=0,
                checkpoint_dir=run,
                resume=Path("auto"),
                publish=False,
                **common,
            )
        groups = []
        for start, plan in plans.items():
            print(f"Fine-tuning, {start}")
            groups += _swept(plan, start, textures, tuning_epochs, common)
    options = {
        **{"recipes": f"{RECIPE},{TUNING_RECIPE}", "epochs": epochs, "tuning_epochs": tuning_epochs, "size": size},
        **{"photographs": sets.num_train, "subjects": sets.num_subjects, "per_class": per_class},
        **{"folds": _listed(folds), "seeds": _listed(seeds)},
    }
    rows = rows_of(groups)
    path = append_rows("transfer", [columns_before(about) | row | columns_after(about, options) for row in rows])
    print(
        f"{rows[0]['num_classes']} classes, {tuning_epochs} epochs at {size} px, folds {_listed(folds)}, "
        f"seeds {_listed(seeds)}; chance {rows[0]['chance']:.1%}:\n{table(rows)}\n{added(path)}"
    )


@contextlib.contextmanager
def _kept(run_dir: Path | None) -> Iterator[Path]:
    if run_dir is not None:
        yield run_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _swept(plan: Plan, start: str, textures: Path, epochs: int, common: Mapping[str, Any]) -> list[Group]:
    """Does all runs of a plan, and reads what came of them, by model."""
    asked = {
        **{"data_dir": textures, "dataset": "dtd", "recipe": TUNING_RECIPE, "epochs": epochs, "run_dir": plan.run_dir},
        **{"models": plan.models, "folds": plan.folds, "seeds": plan.seeds},
        "weights": tuple(f"{model}={choice}" for model, choice in plan.weights.items()),
        **common,
    }
    if bind(sweep, asked)():
        raise InputError("runs have failed, as said above: no rows are added; mend it and start again.")
    results = {run: json.loads((run.folder / "result.json").read_text()) for run in plan.runs}
    return [
        Group(
            model=model,
            start=start,
            runs={(run.fold, run.seed): result for run, result in results.items() if run.model == model},
        )
        for model in plan.models
    ]


def rows_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each model and start, the starts of a model one after the other.

    Accuracies are shares of the test images, 0 to 1. `std_seeds` is the sample standard deviation over seeds of the
    means over folds, which is what another seed changes of the mean, and `std_folds` that over folds of the means over
    seeds. `difference` is pretrained less scratch: its mean, its spread over seeds likewise, and each seed's.
    """
    by = {(group.model, group.start): group for group in groups}
    return [_row(by[model, start], by) for model in dict.fromkeys(each.model for each in groups) for start in STARTS]


def _row(group: Group, by: Mapping[tuple[str, str], Group]) -> dict[str, Any]:
    top1 = group.values("test_top1")
    other = by[group.model, SCRATCH].values("test_top1") if group.start == PRETRAINED else None
    gains = _by_seed({pair: top1[pair] - other[pair] for pair in top1}) if other else {}
    first = next(iter(group.runs.values()))
    return {
        "model": group.model,
        "start": group.start,
        "test_top1": round(statistics.fmean(top1.values()), 4),
        "std_seeds": _std(_by_seed(top1).values()),
        "std_folds": _rounded(summary(top1).std_folds),
        "n": len(top1),
        "balanced": round(statistics.fmean(group.values("test_balanced").values()), 4),
        "val_top1": round(statistics.fmean(group.values("val_top1").values()), 4),
        "difference": round(statistics.fmean(gains.values()), 4) if gains else "",
        "difference_std_seeds": _std(gains.values()),
        "difference_by_seed": " ".join(f"{seed}:{gain:+.4f}" for seed, gain in gains.items()),
        "chance": round(1 / first["num_classes"], 4),
        "num_classes": first["num_classes"],
        "test_samples": first["test_samples"],
        "weights_sha256": first["weights_sha256"] or "",
        "runs": " ".join(f"{fold}/{seed}:{value:.4f}" for (fold, seed), value in sorted(top1.items())),
    }


def _by_seed(values: Mapping[Pair, float]) -> dict[int, float]:
    """Means over folds."""
    seeds = sorted({seed for _, seed in values})
    return {seed: statistics.fmean(value for (_, of), value in values.items() if of == seed) for seed in seeds}


def _std(values: Any) -> float | str:
    found = list(values)
    return _rounded(statistics.stdev(found) if len(found) > 1 else None)


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)


def _listed(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as lines for a person."""

    def share(value: float | str, sign: str = "") -> str:
        return "-" if isinstance(value, str) else f"{value:{sign}.1%}"

    head = ("model", "start", "test", "std seeds", "std folds", "n", "balanced", "difference", "std seeds")
    lines = [head] + [
        (
            *(row["model"], row["start"], share(row["test_top1"]), share(row["std_seeds"]), share(row["std_folds"])),
            *(str(row["n"]), share(row["balanced"])),
            *(share(row["difference"], "+"), share(row["difference_std_seeds"])),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
