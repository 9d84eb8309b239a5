"""What a run is built from: its loaders and its model, refused before the first step where they cannot work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import nn

import loaders
from loaders import InputError, Loader
from loaders.augment import Augment
from loaders.errors import one_line
from loaders.native.library import why_missing
from twistnet.arguments import did_you_mean
from twistnet.distributed import World
from twistnet.job import Job
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.tuning import freeze_backbone


def resumed_job(job: Job, checkpoint: Mapping[str, Any]) -> Job:
    """The job with the checkpoint's store and decoder where it leaves them open: others may give other pixels."""
    store = checkpoint.get("store", "auto") if job.store == "auto" else job.store
    decoder = checkpoint.get("decoder", "auto") if job.decoder == "auto" else job.decoder
    if decoder == "native" and why_missing():
        decoder = "auto"  # which then takes the one with the same pixels
    return dataclasses.replace(job, store=store, decoder=decoder)


def open_split(job: Job, split: str, recipe: Recipe, world: World, *, train: bool) -> Loader:
    """The loader of one of the job's splits under a recipe."""
    augment = recipe.train_augment() if train else Augment()
    return loaders.open_loader(
        job.data_dir,
        split,
        recipe.batch_size * (recipe.accumulate if train else 1),
        train=train,
        size=recipe.size if train else recipe.eval_size,
        store=job.store,
        decoder=job.decoder,
        augment=dataclasses.replace(augment, dtype=Precision.choose(world.device, recipe.amp).dtype),
        device=world.device,
        seed=recipe.seed,
        shuffle=recipe.shuffle,
        rank=world.rank,
        world_size=world.world_size,
        num_threads=job.workers,
        crops=recipe.crops(),
        max_bad=job.max_bad,
        verify=job.verify,
        stage=job.stage,
        stage_bytes=None if job.stage_gb is None else round(job.stage_gb * 1e9),
        kept=job.kept,
        repeats=recipe.repeats if train else 1,
    )


def refuse_larger_batch(recipe: Recipe, loader: Loader, split: str, world: World) -> None:
    """Raises InputError where one step would take every image several times, and much memory for it."""
    total, images = recipe.total_batch(world.world_size), loader.num_samples
    if total > images * recipe.repeats:
        raise InputError(
            f"a total batch of {total:,} is more than the {images:,} images of {split}: lower --batch_size or the "
            "number of processes."
        )


def check_model(name: str) -> None:
    """Raises InputError where timm knows no model of that name."""
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models()) or ": take a name of timm.list_models(), as resnet18."
        raise InputError(f"model {name!r} is unknown to timm{near}")


def create(name: str, num_classes: int, size: int | None, **options: Any) -> nn.Module:
    """One of timm's models, initialised on the CPU.

    Args:
        name: timm's.
        num_classes: outputs of its classifier.
        size: side of all images in pixels, which models that are made for one size are built for; None: various.
        options: others of its own.

    Raises:
        InputError: where it cannot be built so.
    """
    check_model(name)
    options = {"num_classes": num_classes, **options}
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size and size is not None:
        options["img_size"] = size
    try:
        model: nn.Module = timm.create_model(name, **options)
    except Exception as error:  # each of a thousand models refuses in its own way
        shown = ", ".join(f"{option}={value}" for option, value in options.items())
        raise InputError(f"model {name} cannot be built with {shown} ({_line(error)}): choose others.") from error
    return model


def make_model(recipe: Recipe, num_classes: int, world: World) -> nn.Module:
    """The recipe's model as its seed initialises it, channels_last on the device, frozen as the recipe tunes it.

    Raises:
        InputError: where timm knows no such model, or it cannot be built or take images of the recipe's sizes.
    """
    one_size = recipe.start_size is None and recipe.size == recipe.eval_size
    drop_path = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}  # not every model has it
    torch.manual_seed(recipe.seed)
    model = create(recipe.model, num_classes, recipe.size if one_size else None, **drop_path)
    sizes = {recipe.eval_size: "--set eval_size", recipe.start_size: "--set start_size", recipe.size: "--size"}
    for size, flag in sizes.items():
        if size is not None:
            try_size(model, recipe.model, size, flag)
    if recipe.tune != "all":
        freeze_backbone(model, recipe.model)
    if recipe.sync_batch_norm and world.world_size > 1:
        if world.device.type != "cuda":
            raise InputError("sync_batch_norm needs CUDA cards, which torch's is made for: set it to false.")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


@contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
    """Says in a sentence what a step ran into that the user can change.

    Raises:
        InputError: where memory does not suffice, or batch norm has a single value a channel.
    """
    at = f"batch size {recipe.batch_size} at {recipe.size} pixels"
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has no class of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            f"{at} does not fit into memory: lower --batch_size, and raise --accumulate to match."
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(f"{at} leaves batch norm one value a channel: raise --batch_size or --size.") from error


@torch.no_grad()
def try_size(model: nn.Module, name: str, size: int, flag: str) -> None:
    """Raises InputError, which names the flag, where a model cannot take images of a size."""
    model.eval()
    try:
        model(torch.zeros(1, 3, size, size))
    except Exception as error:
        raise InputError(
            f"model {name} cannot take images of {size} pixels ({_line(error)}): change {flag}."
        ) from error
    model.train()


def _line(error: Exception) -> str:
    return one_line(error, 200) or type(error).__name__
