"""Linear probes: how much of a task's answer a model's features hold, without a step of training.

    centre crops -> features, once -> logistic regression for each strength of regularisation -> the best by validation

The protocol is that of Radford et al. 2021 ("Learning Transferable Visual Models From Natural Language Supervision",
appendix A.3), after Kornblith et al. 2019 ("Do Better ImageNet Models Transfer Better?"), but for the features, which
are standardised, and for the fit, which keeps to the training split: the validation split chooses alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from loaders import InputError, Loader
from twistnet.advice import Setting
from twistnet.building import make_model, open_split
from twistnet.counting import parameters
from twistnet.distributed import World
from twistnet.job import Job
from twistnet.logistic import choose_l2
from twistnet.precision import Precision, use_fast_kernels
from twistnet.recipe import Recipe
from twistnet.reporting import Report
from twistnet.run_folder import RunFolder
from twistnet.tuning import classifiers
from twistnet.weights import LoadReport, save


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A fitted probe.

    Attributes:
        model: with the fit as its classifier, in evaluation.
        val_top1: accuracy on the validation split, 0 to 1.
        l2: the strength of regularisation that it chose.
        images_per_s: at which features of the training split were computed, over all ranks.
        step_seconds: that features and fits took.
        train_samples: of the training split.
        loaded: the weights of the backbone; None for random ones.
    """

    model: nn.Module
    val_top1: float
    l2: float
    images_per_s: float
    step_seconds: float
    train_samples: int
    loaded: LoadReport | None


def probe(
    job: Job, recipe: Recipe, world: World, prepare: Callable[[nn.Module], LoadReport | None] = lambda _: None
) -> Probed:
    """Fits a probe on the job's training split, and writes the run's files but the test's.

    Args:
        prepare: called with the new model, to load weights into it.

    Raises:
        InputError: for data, weights or a model that cannot be used.
    """
    folder = RunFolder(job.run_dir)
    loaders = [open_split(job, split, recipe, world, train=False) for split in (job.train_split, job.val_split)]
    try:
        return _probe(job, recipe, world, prepare, folder, *loaders)
    finally:
        folder.release()
        for loader in loaders:
            loader.close()


def _probe(
    job: Job,
    recipe: Recipe,
    world: World,
    prepare: Callable[[nn.Module], LoadReport | None],
    folder: RunFolder,
    train: Loader,
    val: Loader,
) -> Probed:
    use_fast_kernels(world.device)
    num_classes = len(train.classes)
    model = make_model(recipe, num_classes, world).eval()
    loaded = prepare(model)
    precision = Precision.choose(world.device, recipe.amp)
    world.wait_for_all()  # before rank 0 writes into a folder that another rank may still be looking into
    if world.is_main:
        folder.make()
        report = Report(folder, world, train, Setting.of(train, world, job.workers))
        report.opened(0, 0, recipe, str(precision.dtype), asdict(loaded) if loaded else None, [], None)
        print(
            f"Probing {recipe.model}: features of {train.num_samples:,} and {val.num_samples:,} images; {folder.path}"
        )
    start = time.monotonic()
    features, labels = features_of(model, train, world, precision, flip_tta=recipe.flip_tta)
    images_per_s = len(features) / (time.monotonic() - start)
    val_features, val_labels = features_of(model, val, world, precision, flip_tta=recipe.flip_tta)
    fit = choose_l2(features, labels, val_features, val_labels, num_classes)
    set_classifier(model, recipe.model, fit.weight, fit.bias)
    step_seconds = time.monotonic() - start
    if world.is_main:
        for l2, top1 in sorted(fit.tried.items()):
            folder.append({"kind": "probe", "step": 0, "l2": l2, "val_top1": top1})
        print(f"Chose l2 {fit.l2:g} of {len(fit.tried)} tried: val_acc {fit.val_top1:.2%}")
        save(model, folder.path / job.weights_name)
    return Probed(
        model=model,
        val_top1=fit.val_top1,
        l2=fit.l2,
        images_per_s=images_per_s,
        step_seconds=step_seconds,
        train_samples=train.num_samples,
        loaded=loaded,
    )


@torch.no_grad()
def features_of(
    model: nn.Module, loader: Loader, world: World, precision: Precision, *, flip_tta: bool = False
) -> tuple[Tensor, Tensor]:
    """What the model's classifier sees of every sample, from all ranks, in the order of the split.

    With `flip_tta` they are means with those of mirror images, as logits are in evaluation.

    Returns:
        (N, D) float32 and the labels (N,), on the device.

    Raises:
        InputError: for a model whose features are no vectors.
    """
    model.eval()
    found: list[tuple[Tensor, ...]] = []
    for batch in loader.epoch(0):
        with precision.autocast():
            features = _features(model, batch.images)
            if flip_tta:
                features = (features + _features(model, batch.images.flip(3))) / 2
        ids = batch.ids.to(features.device, non_blocking=True)
        found.append((ids.where(batch.valid, -1), batch.labels.clone(), features.float()))
    ids, labels, features = (world.gather(torch.cat(parts)).flatten(0, 1) for parts in zip(*found, strict=True))
    order = ids.argsort()
    order = order[ids[order] >= 0]
    return features[order], labels[order]


def _features(model: nn.Module, images: Tensor) -> Tensor:
    if not hasattr(model, "forward_head"):
        raise InputError(f"model {type(model).__name__} gives no features apart: take --tune classifier.")
    features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    if features.ndim != 2:
        raise InputError(
            f"model {type(model).__name__} has features of shape {tuple(features.shape[1:])} where a vector is needed: "
            "take --tune classifier."
        )
    return features


@torch.no_grad()
def set_classifier(model: nn.Module, name: str, weight: Tensor, bias: Tensor) -> None:
    """Makes a fit on a model's features its classifier.

    Norms of the classifier are set to change nothing, and where there are two heads, whose mean counts, they are alike.

    Args:
        model: its features are the fit's.
        name: timm's.
        weight: (C, D).
        bias: (C,).

    Raises:
        InputError: where its classifier is no linear layer.
    """
    for head in classifiers(model, name):
        linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
        norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm1d)]
        known = sum(parameters(module) for module in (*linear, *norms))
        fits = all(layer.weight.shape == weight.shape and layer.bias is not None for layer in linear)
        if not linear or not fits or known != parameters(head):
            raise InputError(f"model {name} has a classifier that is no linear layer: take --tune classifier.")
        for layer in linear:
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        for norm in norms:
            norm.reset_parameters()
            norm.running_var.fill_(1.0 - norm.eps)  # type: ignore[union-attr]
