"""The training loop: one file from a recipe to trained weights.

    join the world -> open the loaders -> model, step -> [ epochs: steps, validation, checkpoint ] -> weights

Nothing waits for the device, except where a log row is due. A checkpoint is taken only there too, so that the sums
behind the log are empty and need no saving; a resumed run takes the very next batch.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loaders import InputError
from loaders.choosing import same_pixels
from loaders.errors import one_line
from loaders.sources import shown
from twistnet import environment, signals
from twistnet.advice import Setting
from twistnet.buffers import average_buffers, gather_buffers, set_buffers
from twistnet.building import explained, make_model, open_split, resumed_job
from twistnet.curves import draw_curves
from twistnet.distributed import World
from twistnet.evaluate import Score, evaluate
from twistnet.job import Job, Outcome
from twistnet.meter import Meter
from twistnet.precision import use_fast_kernels
from twistnet.profiling import Profile
from twistnet.progress import Progress
from twistnet.recipe import Recipe
from twistnet.run_folder import RunFolder, save_checkpoint
from twistnet.schedule import lr_at
from twistnet.step import TrainStep
from twistnet.weights import LoadReport, save

BAD_SHOWN = 5  # of the images that were replaced since the last row


def train(
    job: Job,
    recipe: Recipe,
    world: World,
    *,
    checkpoint: dict[str, Any] | None = None,
    prepare: Callable[[nn.Module], LoadReport | None] = lambda _: None,
) -> Outcome:
    """Trains a model from its first step, or on from a checkpoint.

    Args:
        job: where and with what.
        recipe: how; with a checkpoint, the checkpoint's own.
        world: this rank among the others; all of them call this.
        checkpoint: a loaded latest.pt to go on from.
        prepare: called with a new model, to load weights into it; not called when resuming.

    Raises:
        InputError: for data, checkpoint or settings that cannot be used together.
    """
    run = _Run(job, recipe, world, checkpoint, prepare)
    try:
        return run.run()
    finally:
        run.folder.release()


class _Run:
    """The state of a run, from its opening to its end."""

    def __init__(
        self,
        job: Job,
        recipe: Recipe,
        world: World,
        checkpoint: dict[str, Any] | None,
        prepare: Callable[[nn.Module], LoadReport | None],
    ) -> None:
        self.job, self.recipe, self.world = job, recipe, world
        self.folder = RunFolder(job.run_dir)
        if checkpoint is None:
            self.folder.refuse_to_overwrite()
        if checkpoint is not None:
            job = self.job = resumed_job(job, checkpoint)
        self.train_loader = open_split(job, job.train_split, recipe, world, train=True)
        self.val_loader = open_split(job, job.val_split, recipe, world, train=False)
        self._refuse_larger_batch()
        use_fast_kernels(world.device)
        self.model = make_model(recipe, len(self.train_loader.classes), world)
        loaded = prepare(self.model) if checkpoint is None else None
        self.weights_from = dataclasses.asdict(loaded) if loaded else None
        self.train_step = TrainStep(self.model, recipe, world, compiling=job.compile)
        self.steps_per_epoch = len(self.train_loader)
        self.epoch = self.step_in_epoch = 0
        self.best_top1, self.best_epoch = -1.0, 0
        self.bad_told = 0
        self.decoded_by = checkpoint.get("decoder") if checkpoint else None
        self.meter = Meter(world, self.train_loader)
        self.setting = Setting.of(self.train_loader, world, job.workers)
        if checkpoint is not None:
            self._restore(checkpoint)
        self.saved_at = time.monotonic()
        world.wait_for_all()  # before rank 0 writes into a folder that another rank may still be looking into
        if world.is_main:
            self._open_folder()

    def _refuse_larger_batch(self) -> None:
        """Raises InputError where one step would take every image several times, and much memory for it."""
        total, images = self.recipe.total_batch(self.world.world_size), self.train_loader.num_samples
        if total > images * self.recipe.repeats:
            raise InputError(
                f"a total batch of {total:,} is more than the {images:,} images of {self.job.train_split}: lower "
                "--batch_size or the number of processes."
            )

    @property
    def step(self) -> int:
        """Optimiser steps taken since the run began."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def run(self) -> Outcome:
        """Trains to the end."""
        score = None
        images = self.train_loader.num_samples
        done = self.epoch * images + self._images_before(self.step_in_epoch)
        progress = Progress(total=self.recipe.epochs * images, done=done, shown=self.world.is_main)
        progress.say(
            f"Training {self.recipe.model} on {images:,} images of {len(self.train_loader.classes)} classes: "
            f"{_counted(self.recipe.epochs, 'epoch')} of {_counted(self.steps_per_epoch, 'step')}, total batch "
            f"{self.recipe.total_batch(self.world.world_size)} on {self.world.world_size} x {self.world.device.type}, "
            f"lr {self.recipe.peak_lr(self.world.world_size):g}, from step {self.step}; {self.folder.path}"
        )
        alone = [name for name in ("sync_batch_norm", "compress_gradients") if getattr(self.recipe, name)]
        if alone and self.world.world_size == 1:
            progress.say(f"{' and '.join(alone)} without effect: there is one process.")
        progress.say(f"Reading {shown(self.job.data_dir)}: {self.train_loader.choice}")
        self.profile = Profile(
            self.job.profile if self.world.is_main else 0, self.folder.path, self.world.device, progress.say
        )
        if self.decoded_by and not same_pixels(self.decoded_by, self.train_loader.decoder, self.recipe.interpolation):
            progress.say(
                f"[Warning] Decoded by {self.decoded_by} so far: {self.train_loader.decoder} may make other pixels of "
                "the same images from here on."
            )
        try:
            with signals.noted() as self.stopping:
                while self.epoch < self.recipe.epochs:
                    with explained(self.recipe):
                        score = self._run_epoch(progress)
            # A run that was finished already is scored once more, and its weights are written again.
            score = score or self._score()
        finally:
            self.profile.close()
            progress.close()
            self.train_loader.close()
            self.val_loader.close()
        weights = self.folder.path / self.job.weights_name
        if self.world.is_main:
            save(self.train_step.scored, weights)
        return Outcome(
            best_top1=self.best_top1,
            best_epoch=self.best_epoch,
            last=score,
            images_per_s=self.meter.images_per_s,
            weights=weights,
            weights_from=self.weights_from["path"] if self.weights_from else None,
        )

    def _run_epoch(self, progress: Progress) -> Score:
        progress.describe(f"epoch {self.epoch + 1}/{self.recipe.epochs}")
        self.train_step.parallel.train()
        self.meter.start()
        size = self.recipe.size_at(self.epoch)
        for batch in self.train_loader.epoch(self.epoch, self.step_in_epoch, size=size):
            compiles = self.train_step.compiles(size)
            if compiles:
                progress.say(f"Compiling for {size} px: this step takes longer than all others.")
            self.meter.begin()
            self.train_step(batch, self.step, self._lr(self.step), self.meter.count)
            self.meter.end()
            self.step_in_epoch += 1
            self.profile.step()
            if compiles:
                progress.say(f"Compiled for {size} px: the first step took {self.train_step.compile_s[size]:.0f} s.")
            progress.advance(self._images_before(self.step_in_epoch) - self._images_before(self.step_in_epoch - 1))
            last = self.step_in_epoch == self.steps_per_epoch
            if self.step_in_epoch % self.job.log_every == 0 and not last:
                self._log_steps(progress)
                if self._checkpoint_is_due():
                    self._checkpoint()
            # One process stops at once; several agree on it where they meet anyway.
            elif self.stopping.signal and self.world.world_size == 1 and not last:
                self._log_steps(progress)
                self._checkpoint()
        self._log_steps(progress)
        score = self._score()
        self._refuse_divergence("validation loss", score.loss)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self._log_epoch(score, progress)
        if self.epoch < self.recipe.epochs:
            self._stop_if_asked()
        return score

    def _score(self) -> Score:
        """On the validation split, with batch norm's statistics averaged over the ranks."""
        average_buffers(self.train_step.models, self.world)
        step = self.train_step
        return evaluate(step.scored, self.val_loader, self.world, step.precision, flip_tta=self.recipe.flip_tta)

    def _lr(self, step: int) -> float:
        return lr_at(
            step,
            schedule=self.recipe.schedule,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.epochs,
            warmup_epochs=self.recipe.warmup_epochs,
            peak=self.recipe.peak_lr(self.world.world_size),
            min_share=self.recipe.min_lr,
        )

    def _log_steps(self, progress: Progress) -> None:
        measured = self.meter.read() | {"grad_norm": self.train_step.mean_grad_norm()}
        self._refuse_divergence("loss", measured["loss"])
        if self.world.is_main:
            row = {"kind": "steps", "step": self.step, "epoch": self.epoch + 1, "lr": self._lr(self.step - 1)}
            self.folder.append(row | measured)
            progress.note(f"loss {measured['loss']:.3f}")
        self._tell_of_bad_images(progress)

    def _tell_of_bad_images(self, progress: Progress) -> None:
        """Each rank of its own, which no other one has seen; new ones only."""
        bad = list(self.train_loader.bad.items())
        for number, (key, reason) in list(enumerate(bad, 1))[self.bad_told :][:BAD_SHOWN]:
            progress.say(f"[Warning] {key} cannot be decoded ({reason}): replaced; {number} so far.")
        self.bad_told = len(bad)

    def _log_epoch(self, score: Score, progress: Progress) -> None:
        measured, stages, seen = self.meter.read_epoch()
        buffers = gather_buffers(self.train_step.models, self.world)
        better = score.top1 > self.best_top1
        if better:
            self.best_top1, self.best_epoch = score.top1, self.epoch
        if not self.world.is_main:
            return
        row = {"kind": "epoch", "step": self.step, "epoch": self.epoch, "lr": self._lr(self.step - 1)}
        validation = {"val_loss": score.loss, "val_top1": score.top1, "val_top5": score.top5}
        loading = {"stages": stages} | ({"shares": shares} if (shares := self.train_loader.shares()) else {})
        bound = {"bound_by": self.setting.bound(seen), "waited_steps": seen.waited_share} if seen.steps else {}
        self.folder.append(row | measured | validation | {"val_samples": score.samples} | loading | bound)
        progress.say(
            f"Epoch {self.epoch}: val_acc {score.top1:.2%}, top-5 {score.top5:.2%}, loss {measured['loss']:.3f}, "
            f"{measured['images_per_s']:.0f} img/s"
        )
        if bound:
            progress.say(self.setting.line(seen))
        if better:
            save_checkpoint(self.folder.best, self._state(buffers))
        self._save_latest(buffers)
        self._draw(progress)

    def _refuse_divergence(self, what: str, value: float) -> None:
        """Raises InputError for a value that is not finite, before anything of it reaches a file."""
        if math.isfinite(value):
            return
        instead = "a lower --lr" + (" or with --no_amp" if self.train_step.precision.dtype != torch.float32 else "")
        kept = f"; {self.folder.latest} is from before" if self.folder.latest.exists() else ""
        raise InputError(f"the {what} became {value} by step {self.step}: start a new run with {instead}{kept}.")

    def _images_before(self, step_in_epoch: int) -> int:
        """Images of the epoch's first steps, over all ranks, the filling of the last batch left out."""
        return min(step_in_epoch * self.recipe.total_batch(self.world.world_size), self.train_loader.num_samples)

    def _checkpoint_is_due(self) -> bool:
        """As rank 0's clock says, or because a signal has come to any; on all ranks alike."""
        due = self.world.is_main and time.monotonic() - self.saved_at >= 60 * self.job.checkpoint_minutes
        return self.world.any(due or self.stopping.signal != 0)

    def _checkpoint(self) -> None:
        """Saves inside an epoch, and stops where that was asked for."""
        buffers = gather_buffers(self.train_step.models, self.world)
        if self.world.is_main:
            self._save_latest(buffers)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.world.any(self.stopping.signal != 0):
            raise signals.Stopped(
                self.stopping.signal, f"after step {self.step}: go on with --resume {self.folder.latest}"
            )

    def _draw(self, progress: Progress) -> None:
        try:
            draw_curves(self.folder)
        except Exception as error:  # whatever a drawing package runs into is no reason to lose a run
            progress.say(f"[Warning] curves.png could not be drawn: {one_line(error)}")

    def _save_latest(self, buffers: Tensor) -> None:
        # The last logged loss is from before the last update.
        largest = torch.stack([parameter.detach().abs().max() for parameter in self.model.parameters()]).max()
        self._refuse_divergence("largest weight", float(largest))
        save_checkpoint(self.folder.latest, self._state(buffers))
        self.saved_at = time.monotonic()

    def _state(self, buffers: Tensor) -> dict[str, Any]:
        """All that the next step depends on; order and draws are functions of epoch and step."""
        return {
            "model": self.model.state_dict(),
            "buffers": buffers,
            **self.train_step.state(),
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "best_top1": self.best_top1,
            "best_epoch": self.best_epoch,
            "meter": self.meter.state(),
            "weights_from": self.weights_from,
            "publish_to": str(self.job.publish_to) if self.job.publish_to else None,
            "recipe": self.recipe.to_dict(),
            "data": self._data(),
            "store": self.train_loader.store,
            "decoder": self.train_loader.decoder,
        }

    def _data(self) -> dict[str, Any]:
        return {
            "train_split": self.job.train_split,
            "val_split": self.job.val_split,
            "classes": list(self.train_loader.classes),
            "samples": self.train_loader.num_samples,
            "fingerprint": self.train_loader.fingerprint,
            "val_fingerprint": self.val_loader.fingerprint,
            "total_batch": self.recipe.total_batch(self.world.world_size),
        }

    def _restore(self, checkpoint: dict[str, Any]) -> None:
        for name, here in self._data().items():
            saved = checkpoint["data"][name]
            if here != saved:
                here, saved = (f"{v[:3]} and on, {len(v)}" if isinstance(v, list) else v for v in (here, saved))
                raise InputError(
                    f"the checkpoint's {name} ({saved}) is not this run's ({here}): resume on the same data and "
                    f"total batch, or start a new run."
                )
        self.model.load_state_dict(checkpoint["model"])
        if not self.train_step.restore(checkpoint) and self.world.is_main:
            here = self.train_step.precision.dtype
            print(f"[Warning] Trained in {checkpoint['dtype']} so far; this device goes on in {here}.")
        buffers = checkpoint["buffers"]
        same_ranks = len(buffers) == self.world.world_size
        set_buffers(self.train_step.models, buffers[self.world.rank] if same_ranks else buffers.mean(dim=0))
        self.epoch, self.step_in_epoch = checkpoint["epoch"], checkpoint["step_in_epoch"]
        if self.folder.best.exists():  # else the next epoch's is the best that there is
            self.best_top1, self.best_epoch = checkpoint["best_top1"], checkpoint["best_epoch"]
        self.meter.restore(checkpoint["meter"])
        self.weights_from = checkpoint["weights_from"]

    def _open_folder(self) -> None:
        """Writes what is known before the first step."""
        self.folder.make()
        self.folder.rewind_log(self.step)
        self.folder.write_json("recipe.json", self.recipe.to_dict())
        env = environment.describe(self.world.device) | {
            "store": self.train_loader.store,
            "decoder": self.train_loader.decoder,
            "dtype": str(self.train_step.precision.dtype),
            "world_size": self.world.world_size,
            "weights_from": self.weights_from,
        }
        self.folder.write_json("env.json", env)
        # In the log as well, which keeps that of every start.
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        self.folder.append(
            {"kind": "start", "step": self.step, "epoch": self.epoch + 1, "time": now, "env": env}
            | {"recipe": self.recipe.to_dict()}
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
