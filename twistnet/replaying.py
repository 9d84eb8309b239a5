"""Looks into a step that had no finite gradient: the same images, the same draws, and the weights of before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loaders import Batch, InputError, Loader
from loaders.augment import Augment
from twistnet.building import make_model, open_split, resumed_job
from twistnet.checkpoints import readable
from twistnet.distributed import World
from twistnet.job import Job
from twistnet.loss import training_loss
from twistnet.precision import Precision
from twistnet.recipe import Recipe, from_dict
from twistnet.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a step does with its images.

    Attributes:
        step: its number in the run, from 0.
        checkpoint: whose weights it was taken with.
        steps_before: how many steps lie between the checkpoint and the step; below 0 where it is from after it.
        batch: its images, on the device.
        losses: (B,) float32, of each sample alone.
        grad_norm: of the whole batch.
        first_bad: the first module whose output is not finite, by its name; empty where all are.
        loader: the one that the batch came from.
        augment: what its images went through.
    """

    step: int
    checkpoint: Path
    steps_before: int
    batch: Batch
    losses: Tensor
    grad_norm: float
    first_bad: str
    loader: Loader
    augment: Augment


def bad_step(folder: Path, step: int | None) -> dict[str, Any]:
    """What a run has noted of a step that it skipped: the last one unless `step`, from 0, is given.

    Raises:
        InputError: where it has noted none, or not this one.
    """
    path, rows = RunFolder(folder).bad_steps, RunFolder(folder).noted_bad_steps()
    found = [row for row in rows if step is None or row["step"] == step]
    if not found:
        known = ", ".join(str(row["step"] + 1) for row in rows[-8:])
        raise InputError(f"step {(step or 0) + 1} is none of the skipped steps in {path}: take {known}.")
    return found[-1]


def replay(folder: Path, data_dir: Path, world: World, step: int | None = None, *, amp: bool | None = None) -> Replay:
    """Takes a skipped step once more, without changing a weight.

    Args:
        folder: of the run.
        data_dir: its data set.
        world: of one process.
        step: from 0; the last that was skipped unless given.
        amp: as `Recipe.amp`; the recipe's unless given.

    Raises:
        InputError: where the run, its checkpoint or its data are not there, or the data are others.
    """
    row = bad_step(folder, step)
    path, state = _checkpoint(folder, row)
    stored = from_dict(state["recipe"])
    recipe = stored.with_changes(batch_size=state["data"]["total_batch"], accumulate=1, amp=amp)
    data = state["data"]
    job = Job(data_dir=data_dir, train_split=data["train_split"], run_dir=folder, weights_name="", compile="off")
    loader = open_split(resumed_job(job, state), job.train_split, recipe, world, train=True)
    if loader.ids(row["epoch"], row["place"]).tolist() != row["ids"] or loader.fingerprint != data["fingerprint"]:
        loader.close()
        raise InputError(f"{data_dir} holds other images than {folder} was trained on: name the data of that run.")
    model = make_model(recipe, len(loader.classes), world)
    model.load_state_dict(state["model"])
    batch = next(iter(loader.epoch(row["epoch"], row["place"], size=recipe.size_at(row["epoch"]))))
    losses, norm, first_bad = _look(model.train(), batch, recipe, stored.batch_size, world.device)
    return Replay(
        step=row["step"],
        checkpoint=path,
        steps_before=row["step"] - _taken(state, row),
        batch=batch,
        losses=losses,
        grad_norm=norm,
        first_bad=first_bad,
        loader=loader,
        augment=recipe.train_augment(),
    )


def _checkpoint(folder: Path, row: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint from before the step, or else the first one from after it."""

    def nearness(each: tuple[Path, dict[str, Any]]) -> tuple[bool, int, int]:
        epoch, step = each[1]["epoch"], each[1]["step_in_epoch"]
        is_before = (epoch, step) <= (row["epoch"], row["place"])
        return (is_before, epoch, step) if is_before else (is_before, -epoch, -step)

    found = max(readable(folder), key=nearness, default=None)  # one after the other: they are large
    if found is None:
        raise InputError(f"{folder} holds no checkpoint that can be read: its weights are needed.")
    return found


def _taken(state: dict[str, Any], row: dict[str, Any]) -> int:
    """Steps that the run had taken at a checkpoint."""
    per_epoch = (row["step"] - row["place"]) // row["epoch"] if row["epoch"] else row["step"]
    return int(state["epoch"] * per_epoch + state["step_in_epoch"])


def _look(
    model: nn.Module, batch: Batch, recipe: Recipe, at_once: int, device: torch.device
) -> tuple[Tensor, float, str]:
    """Losses of the samples, norm of the gradient, and where the first number that is none appeared."""
    precision, loss_of = Precision.choose(device, recipe.amp), training_loss(recipe.loss)
    bad: list[str] = []
    hooks = [module.register_forward_hook(_noting(name, bad)) for name, module in model.named_modules() if name]
    losses = []
    for images, *rest in zip(*(tensor.chunk(-(-len(batch.images) // at_once)) for tensor in batch), strict=True):
        part = Batch(images, *rest)
        with precision.autocast():
            logits = model(part.images)
        ones = [loss_of(logits[i : i + 1], _one(part, i), recipe.label_smoothing) for i in range(len(logits))]
        losses.append(torch.stack(ones).detach().float())
        torch.autograd.backward(torch.stack(ones).sum() / len(batch.images))
    for hook in hooks:
        hook.remove()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    return torch.cat(losses).cpu(), float(norm), bad[0] if bad else ""


def _one(batch: Batch, place: int) -> Batch:
    return Batch(*(tensor[place : place + 1] for tensor in batch))


def _noting(name: str, bad: list[str]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def note(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Tensor) and not bool(out.isfinite().all()):
            bad.append(name)

    return note
