"""Fine-tuning on one fold: weights in, the best epoch by validation, one test."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from loaders import InputError
from loaders.layouts import find_layout
from loaders.manifest import is_converted
from twistnet.building import make_model, open_split
from twistnet.checkpoints import load_checkpoint
from twistnet.distributed import World
from twistnet.evaluate import evaluate
from twistnet.job import Job
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.run_folder import RunFolder
from twistnet.starting import Start
from twistnet.train import train
from twistnet.weights import LoadReport, auto_load


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What fine-tuning came to, as result.json holds it.

    Attributes:
        val_top1: the best validation accuracy, 0 to 1.
        best_epoch: the epoch that it was reached after, from 1.
        test_top1: test accuracy of that epoch's weights, 0 to 1.
        test_samples: images that it was measured on.
        weights: what training began from, a file or timm's model; None for random weights.
        images_per_s: trained on, over all ranks.
    """

    val_top1: float
    best_epoch: int
    test_top1: float
    test_samples: int
    weights: str | None
    images_per_s: float


def finetune_fold(
    job: Job,
    recipe: Recipe,
    world: World,
    *,
    test_split: str,
    weights: str = "auto",
    start: Start | None = None,
) -> Result:
    """Trains on the job's splits and tests the best epoch's weights once.

    Args:
        test_split: the split to test on.
        weights: "auto", "none" or a file, as `twistnet.weights.auto_load` takes it.
        start: a checkpoint to go on from.

    Raises:
        InputError: for data, weights or settings that cannot be used.
    """
    data = job.data_dir if isinstance(job.data_dir, Path) and job.data_dir.is_dir() else None
    if data and not is_converted(data) and find_layout(data) is None:
        raise InputError(f"{job.data_dir} is no DTD folder: it must hold images/<class>/ and labels/train1.txt.")
    best = RunFolder(job.run_dir).best
    if start is not None and start.state["epoch"] >= recipe.epochs and not best.exists():
        raise InputError(f"the run has ended and {best} is gone, which would be tested: start a new run.")
    # Opened before training, so that a missing list costs no epochs.
    test_loader = open_split(job, test_split, recipe, world, train=False)

    def prepare(model: nn.Module) -> LoadReport | None:
        return auto_load(model, recipe.model, weights, announce=print if world.is_main else _say_nothing)

    outcome = train(job, recipe, world, start=start, prepare=prepare)
    folder = RunFolder(job.run_dir)
    model = make_model(recipe, len(test_loader.classes), world)
    world.wait_for_all()  # until rank 0 has written best.pt
    kept = load_checkpoint(folder.best)
    model.load_state_dict(kept["ema"] or kept["model"])
    precision = Precision.choose(world.device, recipe.amp)
    score = evaluate(model, test_loader, world, precision, flip_tta=recipe.flip_tta)
    test_loader.close()
    result = Result(
        val_top1=outcome.best_top1,
        best_epoch=outcome.best_epoch,
        test_top1=score.top1,
        test_samples=score.samples,
        weights=outcome.weights_from,
        images_per_s=outcome.images_per_s,
    )
    if world.is_main:
        folder.write_json("result.json", dataclasses.asdict(result))
    return result


def _say_nothing(_: str) -> None:
    pass
