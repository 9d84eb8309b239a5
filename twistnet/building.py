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


def check_model(name: str) -> None:
    """Raises InputError where timm knows no model of that name."""
    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models()) or ": take a name of timm.list_models(), as resnet18."
        raise InputError(f"model {name!r} is unknown to timm{near}")


def make_model(recipe: Recipe, num_classes: int, world: World) -> nn.Module:
    """The recipe's model as its seed initialises it, channels_last on the device.

    Raises:
        InputError: where timm knows no such model, or it cannot be built or take images of the recipe's sizes.
    """
    check_model(recipe.model)
    options: dict[str, Any] = {"num_classes": num_classes}
    if recipe.drop_path:  # not every model has it
        options["drop_path_rate"] = recipe.drop_path
    cfg = timm.models.get_pretrained_cfg(recipe.model)
    if cfg is not None and cfg.fixed_input_size and recipe.start_size is None and recipe.size == recipe.eval_size:
        options["img_size"] = recipe.size
    torch.manual_seed(recipe.seed)
    try:
        model: nn.Module = timm.create_model(recipe.model, **options)
    except Exception as error:  # each of a thousand models refuses in its own way
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        raise InputError(
            f"model {recipe.model} cannot be built with {shown} ({_line(error)}): choose others."
        ) from error
    sizes = {recipe.eval_size: "--set eval_size", recipe.start_size: "--set start_size", recipe.size: "--size"}
    for size, flag in sizes.items():
        if size is not None:
            _try(model, recipe.model, size, flag)
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
def _try(model: nn.Module, name: str, size: int, flag: str) -> None:
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
