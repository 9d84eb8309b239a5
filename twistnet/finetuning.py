"""Fine-tuning on one fold: weights in, the best epoch by validation, one test."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from loaders import InputError, Loader
from twistnet.building import open_split
from twistnet.checkpoints import load_checkpoint
from twistnet.counting import parameters
from twistnet.distributed import World
from twistnet.evaluate import Score, evaluate
from twistnet.job import Job
from twistnet.precision import Precision
from twistnet.predictions import Predictions
from twistnet.probing import probe
from twistnet.recipe import Recipe, from_dict
from twistnet.result import Result, find_result
from twistnet.run_folder import RunFolder
from twistnet.starting import Start
from twistnet.train import train
from twistnet.weights import LoadReport, auto_load


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """A model to test, and what training it came to."""

    model: nn.Module
    epochs: int
    val_top1: float
    best_epoch: int
    images_per_s: float
    step_seconds: float
    eval_seconds: float
    train_samples: int
    loaded: Mapping[str, Any] | None


def finetune_fold(
    job: Job,
    recipe: Recipe,
    world: World,
    *,
    dataset: str,
    fold: int,
    weights: str = "auto",
    start: Start | None = None,
    resume: bool = False,
) -> Result:
    """Trains on a fold, as the recipe tunes, and tests the best epoch's weights once.

    Args:
        job: with the fold's splits.
        dataset: name of the data set, for the result.
        fold: whose test split is tested on.
        weights: "auto", "none" or a file, as `twistnet.weights.auto_load` takes it.
        start: a checkpoint to go on from.
        resume: whether a run that has ended here may be told of again; nothing is computed then.

    Raises:
        InputError: for data, weights or settings that cannot be used.
    """
    begun, before_s = time.monotonic(), start.state["meter"]["run_s"] if start else 0.0
    folder = RunFolder(job.run_dir)
    if (resume or start is not None) and (told := find_result(folder.result)) and _has_ended(folder, recipe, start):
        return told
    if start is not None and start.state["epoch"] >= recipe.epochs and not folder.best.exists():
        raise InputError(f"the run has ended and {folder.best} is gone, which would be tested: start a new run.")
    # Opened before training, so that a missing list costs no epochs.
    test_loader = open_split(job, f"test{fold}", recipe, world, train=False)

    def prepare(model: nn.Module) -> LoadReport | None:
        return auto_load(model, recipe.model, weights, announce=print if world.is_main else _say_nothing)

    try:
        if recipe.tune == "probe":
            trained = _probed(job, recipe, world, prepare)
        else:
            trained = _trained(job, recipe, world, prepare, start)
        testing = time.monotonic()
        score = _test(trained.model, test_loader, recipe, world, folder)
        test_seconds = time.monotonic() - testing
    finally:
        test_loader.close()
    loaded = trained.loaded or {}
    result = Result(
        model=recipe.model,
        dataset=dataset,
        fold=fold,
        seed=recipe.seed,
        recipe=recipe.name,
        tune=recipe.tune,
        epochs=trained.epochs,
        val_top1=trained.val_top1,
        best_epoch=trained.best_epoch,
        test_top1=score.top1,
        test_top5=score.top5,
        test_balanced=score.balanced,
        test_samples=score.samples,
        test_fingerprint=test_loader.fingerprint,
        train_samples=trained.train_samples,
        num_classes=len(test_loader.classes),
        weights=loaded.get("path"),
        weights_sha256=loaded.get("sha256"),
        images_per_s=trained.images_per_s,
        seconds=round(before_s + time.monotonic() - begun, 3),
        step_seconds=round(trained.step_seconds, 3),
        eval_seconds=round(trained.eval_seconds + test_seconds, 3),
        parameters=parameters(trained.model),
    )
    if world.is_main:  # the last file: who finds it finds all the others
        folder.write_json(folder.result.name, dataclasses.asdict(result))
    return result


def _has_ended(folder: RunFolder, recipe: Recipe, start: Start | None) -> bool:
    if recipe.tune != "probe":
        return start is not None and bool(start.state["epoch"] >= recipe.epochs)
    before = from_dict(json.loads((folder.path / "recipe.json").read_text()))
    if dataclasses.replace(before, batch_size=recipe.batch_size) != recipe:  # the batch changes nothing of a probe
        raise InputError(f"{folder.path} holds a probe with another recipe: choose another folder.")
    return True


def _probed(job: Job, recipe: Recipe, world: World, prepare: Callable[[nn.Module], LoadReport | None]) -> _Trained:
    RunFolder(job.run_dir).refuse_to_overwrite()
    probed = probe(job, recipe, world, prepare)
    return _Trained(
        model=probed.model,
        epochs=1,
        val_top1=probed.val_top1,
        best_epoch=1,
        images_per_s=probed.images_per_s,
        step_seconds=probed.step_seconds,
        eval_seconds=0.0,
        train_samples=probed.train_samples,
        loaded=dataclasses.asdict(probed.loaded) if probed.loaded else None,
    )


def _trained(
    job: Job,
    recipe: Recipe,
    world: World,
    prepare: Callable[[nn.Module], LoadReport | None],
    start: Start | None,
) -> _Trained:
    outcome = train(job, recipe, world, start=start, prepare=prepare)
    world.wait_for_all()  # until rank 0 has written best.pt
    if outcome.best_epoch < recipe.epochs:  # else the model is that epoch's as it is
        kept = load_checkpoint(RunFolder(job.run_dir).best)
        outcome.model.load_state_dict(kept["ema"] or kept["model"])
    return _Trained(
        model=outcome.model,
        epochs=recipe.epochs,
        val_top1=outcome.best_top1,
        best_epoch=outcome.best_epoch,
        images_per_s=outcome.images_per_s,
        step_seconds=outcome.step_seconds,
        eval_seconds=outcome.eval_seconds,
        train_samples=outcome.train_samples,
        loaded=outcome.weights_from,
    )


def _test(model: nn.Module, loader: Loader, recipe: Recipe, world: World, folder: RunFolder) -> Score:
    """The one test, with what was predicted of every sample."""
    predictions = Predictions(world)
    precision = Precision.choose(world.device, recipe.amp)
    score = evaluate(model, loader, world, precision, flip_tta=recipe.flip_tta, note=predictions.note)
    predictions.write(folder.path, loader.classes)
    return score


def _say_nothing(_: str) -> None:
    pass
