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
from twistnet.reporting import spans
from twistnet.run_folder import RunFolder
from twistnet.tuning import set_training


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a step does with its images.

    Attributes:
        step: its number in the run, from 1.
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


def bad_steps(folder: Path, step: int | None) -> list[dict[str, Any]]:
    """What a run has noted of the steps that it skipped, in their order; of one alone where `step`, from 1, is given.

    Raises:
        InputError: where it has noted none, or not this one.
    """
    path, rows = RunFolder(folder).bad_steps, RunFolder(folder).noted_bad_steps()
    newest = {row["step"]: row for row in rows}  # a step may have been taken, and skipped, several times
    if step is not None and step not in newest:
        raise InputError(f"step {step} is none of the skipped steps in {path}: take {spans(newest)}.")
    return [newest[number] for number in sorted(newest) if step in (None, number)]


def replay(
    folder: Path, data_dir: Path | None, world: World, step: int | None = None, *, amp: bool | None = None
) -> Replay:
    """Takes a skipped step once more, without changing a weight.

    Args:
        folder: of the run.
        data_dir: its data set; where the run read it unless given.
        world: of one process.
        step: from 1. Unless given, the first that was skipped after the newest checkpoint which has such steps after
            it: of all, its weights are the nearest to those that are known.
        amp: as `Recipe.amp`; the recipe's unless given.

    Raises:
        InputError: where the run, its checkpoint or its data are not there, or the data are others.
    """
    row, path, state = _nearest(folder, bad_steps(folder, step))
    epoch, place = _at(row)
    stored = from_dict(state["recipe"])
    recipe = stored.with_changes(batch_size=state["data"]["total_batch"], accumulate=1, amp=amp)
    data = state["data"]
    job = Job(
        data_dir=data_dir or (row["data_dir"] if "://" in row["data_dir"] else Path(row["data_dir"])),
        stage=Path(row["stage"]) if row["stage"] and data_dir is None else None,
        train_split=data["train_split"],
        run_dir=folder,
        weights_name="",
        compile="off",
    )
    loader = open_split(resumed_job(job, state), job.train_split, recipe, world, train=True)
    if loader.ids(epoch, place).tolist() != row["ids"] or loader.fingerprint != data["fingerprint"]:
        loader.close()
        raise InputError(
            f"{job.data_dir} holds other images than {folder} was trained on: name that run's by --data_dir."
        )
    model = make_model(recipe, len(loader.classes), world)
    model.load_state_dict(state["model"])
    batch = next(iter(loader.epoch(epoch, place, size=recipe.size_at(epoch))))
    set_training(model, recipe.tune != "all")
    losses, norm, first_bad = _look(model, batch, recipe, stored.batch_size, world.device)
    return Replay(
        step=row["step"],
        checkpoint=path,
        steps_before=row["step"] - 1 - (state["epoch"] * len(loader) + state["step_in_epoch"]),
        batch=batch,
        losses=losses,
        grad_norm=norm,
        first_bad=first_bad,
        loader=loader,
        augment=recipe.train_augment(),
    )


def _nearest(folder: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], Path, dict[str, Any]]:
    """The step to take, and the checkpoint to take it with: the last one with steps after it, or else the first."""

    def nearness(each: tuple[Path, dict[str, Any]]) -> tuple[bool, int, int]:
        epoch, step = each[1]["epoch"], each[1]["step_in_epoch"]
        is_before = (epoch, step) <= _at(rows[-1])
        return (is_before, epoch, step) if is_before else (is_before, -epoch, -step)

    found = max(readable(folder), key=nearness, default=None)  # one after the other: they are large
    if found is None:
        raise InputError(f"{folder} holds no checkpoint that can be read: its weights are needed.")
    path, state = found
    after = [row for row in rows if _at(row) >= (state["epoch"], state["step_in_epoch"])]
    return (after[0] if after else rows[-1]), path, state


def _at(row: dict[str, Any]) -> tuple[int, int]:
    """Epoch of a step and place in it, both from 0."""
    return row["epoch"] - 1, row["place"] - 1


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
