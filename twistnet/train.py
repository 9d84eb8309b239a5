"""The training loop: one file from a recipe to trained weights.

    join the world -> open the loaders -> model, step -> [ epochs: steps, validation, checkpoint ] -> weights

Nothing waits for the device, except where a log row is due. A checkpoint is taken only there too, so that the sums
behind the log are empty and need no saving; a resumed run takes the very next batch.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from loaders import InputError
from twistnet import signals, taking_part
from twistnet.advice import Setting
from twistnet.agreement import Agreement
from twistnet.buffers import average_buffers, gather_buffers, set_buffers
from twistnet.building import explained, make_model, open_split, refuse_larger_batch, resumed_job
from twistnet.checkpoints import BEST, LATEST, Checkpoints, epoch_name
from twistnet.distributed import World
from twistnet.evaluate import Score, evaluate
from twistnet.gates import gates
from twistnet.job import Job, Outcome
from twistnet.meter import Meter
from twistnet.precision import use_fast_kernels
from twistnet.profiling import Profile
from twistnet.progress import Progress
from twistnet.recipe import Recipe
from twistnet.reporting import Report, counted, spans
from twistnet.run_folder import RunFolder
from twistnet.sameness import changed_data, changed_decoder, data_of, refuse_different_starts
from twistnet.schedule import lr_at
from twistnet.starting import Start
from twistnet.states import fitting
from twistnet.step import TrainStep
from twistnet.weights import LoadReport, save

_AT_THE_END_S = 300.0  # that the last checkpoint may take, with what is tried again
_AT_A_STOP_S = 10.0  # within the grace of a signal
_PATIENCE = 6  # with the first step of a size, which compiles


def train(
    job: Job,
    recipe: Recipe,
    world: World,
    *,
    start: Start | None = None,
    prepare: Callable[[nn.Module], LoadReport | None] = lambda _: None,
) -> Outcome:
    """Trains a model from its first step, or on from a checkpoint.

    Args:
        job: where and with what.
        recipe: how; with a checkpoint, the checkpoint's own.
        world: this rank among the others; all of them call this.
        start: the checkpoint to go on from, loaded.
        prepare: called with a new model, to load weights into it; not called when resuming.

    Raises:
        InputError: for data, checkpoint or settings that cannot be used together.
    """
    run = _Run(job, recipe, world, start, prepare)
    try:
        return run.run()
    finally:
        run.close()


class _Run:
    """The state of a run, from its opening to its end."""

    def __init__(
        self,
        job: Job,
        recipe: Recipe,
        world: World,
        start: Start | None,
        prepare: Callable[[nn.Module], LoadReport | None],
    ) -> None:
        self.job, self.recipe, self.world = job, recipe, world
        self.folder, self.watchdog = RunFolder(job.run_dir), world.watchdog
        self.watchdog.at("opening the data")
        if start is None:
            self.folder.refuse_to_overwrite()
        else:
            job = self.job = resumed_job(job, start.state)
        refuse_different_starts(start.state if start else None, world, job.run_dir)
        self.train_loader = open_split(job, job.train_split, recipe, world, train=True)
        self.val_loader = open_split(job, job.val_split, recipe, world, train=False)
        refuse_larger_batch(recipe, self.train_loader, job.train_split, world)
        use_fast_kernels(world.device)
        self.model = make_model(recipe, len(self.train_loader.classes), world)
        loaded = prepare(self.model) if start is None else None
        self.weights_from = dataclasses.asdict(loaded) if loaded else None
        self.train_step = TrainStep(self.model, recipe, world, compiling=job.compile)
        self.steps_per_epoch = len(self.train_loader)
        self.epoch = self.step_in_epoch = self.logged = 0
        self.best_top1, self.best_epoch = -1.0, 0
        self.skipped, self.saved, self.eval_s = 0, start is not None, 0.0
        self.data = data_of(job, recipe, world, self.train_loader, self.val_loader)
        self.meter = Meter(world, self.train_loader)
        self.changed: list[str] = []
        if start:
            with fitting(start.path):
                self.changed = self._restore(start)
        self.agreed = Agreement(world)
        self.taking_part = taking_part.measure(world, sum(parameter.numel() for parameter in self.model.parameters()))
        self.saved_at = time.monotonic()
        self.checkpoints: Checkpoints | None = None
        world.wait_for_all()  # before rank 0 writes into a folder that another rank may still be looking into
        self.report = Report(self.folder, world, self.train_loader, Setting.of(self.train_loader, world, job.workers))
        if world.is_main:
            self.folder.make()
            dtype = str(self.train_step.precision.dtype)
            self.report.opened(self.step, self.epoch, recipe, dtype, self.weights_from, self.changed, self.taking_part)
        self.rotate = start is None or start.path.name == LATEST

    def close(self) -> None:
        """Ends what runs beside, and lets other processes write into the folder."""
        if self.checkpoints is not None:
            self.checkpoints.close()
        self.folder.release()

    @property
    def step(self) -> int:
        """Optimiser steps taken since the run began."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def run(self) -> Outcome:
        """Trains to the end."""
        self.watchdog.at("the start")
        score = None
        images = self.train_loader.num_samples
        done = self.epoch * images + self._images_before(self.step_in_epoch)
        progress = Progress(total=self.recipe.epochs * images, done=done, shown=self.world.is_main)
        self.report.hello(self.recipe, self.job, self.step, self.changed, progress)
        if self.taking_part:
            progress.say(str(self.taking_part))
        self.profile = Profile(
            self.job.profile if self.world.is_main else 0, self.folder.path, self.world.device, progress.say
        )
        if self.world.is_main:
            self.checkpoints = Checkpoints(self.folder.path, progress.say, rotate=self.rotate)
        try:
            with signals.noted(self._leave, tells=self.world.is_main) as self.stopping:
                while self.epoch < self.recipe.epochs:
                    with explained(self.recipe):
                        score = self._run_epoch(progress)
                self.watchdog.at("the last checkpoint")
                self.stopping.waits_for = "the last checkpoint"
                # A run that was finished already is scored once more, and its weights are written again.
                score = score or self._score(progress)
                self.agreed.close()
                weights = self.folder.path / self.job.weights_name
                if self.checkpoints is not None:
                    try:
                        save(self.train_step.scored, weights)  # while the last checkpoint is being written
                    finally:
                        self.checkpoints.finish(_AT_THE_END_S, self.stopping)
        finally:
            self.profile.close()
            self.report.close()
            progress.close()
            self.train_loader.close()
            self.val_loader.close()
        return Outcome(
            best_top1=self.best_top1,
            best_epoch=self.best_epoch,
            last=score,
            images_per_s=self.meter.images_per_s,
            step_seconds=self.meter.step_s,
            eval_seconds=self.eval_s,
            model=self.train_step.scored,
            weights=weights,
            weights_from=self.weights_from,
            train_samples=images,
        )

    def _run_epoch(self, progress: Progress) -> Score:
        progress.describe(f"epoch {self.epoch + 1}/{self.recipe.epochs}")
        self.train_step.start_training()
        self.meter.start()
        self.logged = self.step_in_epoch
        if self.step_in_epoch < self.steps_per_epoch:  # else the run was stopped in validation
            self._train_epoch(progress)
        score = self._score(progress)
        self._refuse_divergence("validation loss", score.loss)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self._finish_epoch(score, progress)
        return score

    def _train_epoch(self, progress: Progress) -> None:
        size = self.recipe.size_at(self.epoch)
        self.watchdog.at("waiting for data")
        for batch in self.train_loader.epoch(self.epoch, self.step_in_epoch, size=size):
            compiles = self.train_step.compiles(size)
            if compiles:
                progress.say(f"Compiling for {size} px: this step takes longer than all others.")
            self.watchdog.at("a training step", _PATIENCE if compiles else 1)
            self.meter.begin()
            self.train_step(batch, self.step, self._lr(self.step), self.meter.count)
            self.meter.end()
            self.step_in_epoch += 1
            self.profile.step()
            if compiles:
                progress.say(f"Compiled for {size} px: the first step took {self.train_step.compile_s[size]:.0f} s.")
            progress.advance(self._images_before(self.step_in_epoch) - self._images_before(self.step_in_epoch - 1))
            last = self.step_in_epoch == self.steps_per_epoch
            too_many = self.train_step.skipping.exceed(self.job.max_skips, self.step)
            if self.step_in_epoch % self.job.log_every == 0 or last or too_many:
                self._log_steps(progress)
                if not last and self._checkpoint_is_due():
                    self._save(gather_buffers(self.train_step.models, self.world))
            self._stop_if_asked(progress)
            self.watchdog.at("waiting for data")

    def _score(self, progress: Progress) -> Score:
        """On the validation split, with batch norm's statistics averaged over the ranks."""
        self.watchdog.at("scoring")
        step, stopping, began = self.train_step, self.epoch < self.recipe.epochs, time.monotonic()
        buffers = average_buffers(step.models, self.world)

        def after_batch() -> None:
            if stopping:
                self._stop_if_asked(progress, buffers)

        score = evaluate(
            step.scored,
            self.val_loader,
            self.world,
            step.precision,
            flip_tta=self.recipe.flip_tta,
            after_batch=after_batch,
        )
        self.eval_s += time.monotonic() - began
        return score

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
        self.logged = self.step_in_epoch
        measured = self.meter.read() | {"grad_norm": self.train_step.mean_grad_norm()}
        row = {"step": self.step, "epoch": self.epoch + 1, "lr": self._lr(self.step - 1)}
        self.report.steps(row | measured | self._skips(progress), progress)

    def _skips(self, progress: Progress) -> dict[str, int]:
        """Tells of the steps that were skipped since the last row, and ends the run where it does nothing else."""
        skipped = self.train_step.skipping.read()
        if not skipped.steps:
            return {}
        many = len(skipped.steps)
        self.skipped += many
        self.report.bad_steps(skipped.steps, self.epoch, self.steps_per_epoch, self.job)
        if not self.saved:  # replay needs weights, and these are as they were before the steps
            self._save(gather_buffers(self.train_step.models, self.world))
        replay = f"twistnet replay {shlex.quote(str(self.folder.path))}"
        progress.say(
            f"[Warning] {counted(many, 'step')} skipped, {self.skipped} so far: no finite gradient in "
            f"step{'s' * (many > 1)} {spans(step + 1 for step in skipped.steps)}; look into it with {replay}."
        )
        if skipped.in_a_row > self.job.max_skips:
            if self.checkpoints is not None:
                self.checkpoints.finish(_AT_A_STOP_S)
            self.world.wait_for_all()  # a launcher ends all ranks as soon as one has ended
            raise InputError(
                f"{skipped.in_a_row} steps in a row had no finite gradient, more than --max_skips "
                f"{self.job.max_skips}: {self._instead()}, and see {replay}."
            )
        return {"skipped": many}

    def _finish_epoch(self, score: Score, progress: Progress) -> None:
        measured, stages, seen = self.meter.read_epoch()
        buffers = gather_buffers(self.train_step.models, self.world)
        better = score.top1 > self.best_top1
        if better:
            self.best_top1, self.best_epoch = score.top1, self.epoch
        if self.world.is_main:
            row = {"step": self.step, "epoch": self.epoch, "lr": self._lr(self.step - 1)} | measured
            self.report.epoch(row | {"stages": stages} | gates(self.train_step.scored), score, seen, progress)
        kept = self.job.keep_every > 0 and self.epoch % self.job.keep_every == 0
        self._save(buffers, *([BEST] if better else []), *([epoch_name(self.epoch)] if kept else []))
        if self.world.is_main:
            self.report.draw(self.epoch, progress)

    def _refuse_divergence(self, what: str, value: float) -> None:
        """Raises InputError for a value that is not finite, before anything of it reaches a checkpoint."""
        if not math.isfinite(value):
            raise InputError(f"the {what} became {value} by step {self.step}: {self._instead()}.")

    def _instead(self) -> str:
        lower = "a lower --lr" + (" or with --no_amp" if self.train_step.precision.dtype != torch.float32 else "")
        kept = f"; {self.folder.latest} is from before" if self.folder.latest.exists() else ""
        return f"start a new run with {lower}{kept}"

    def _images_before(self, step_in_epoch: int) -> int:
        """Images of the epoch's first steps, over all ranks, the filling of the last batch left out."""
        return min(step_in_epoch * self.recipe.total_batch(self.world.world_size), self.train_loader.num_samples)

    def _checkpoint_is_due(self) -> bool:
        """As rank 0's clock says; on all ranks alike."""
        due = self.world.is_main and time.monotonic() - self.saved_at >= 60 * self.job.checkpoint_minutes
        return self.world.any(due)

    def _stop_if_asked(self, progress: Progress, buffers: Tensor | None = None) -> None:
        """Saves and ends the run where a signal has come to any rank; all call this equally often.

        Raises:
            Stopped: when everything is written.
        """
        number = self.agreed(self.stopping.signal)
        if not number:
            return
        if self.logged < self.step_in_epoch:
            self._log_steps(progress)
        self._save(gather_buffers(self.train_step.models, self.world) if buffers is None else buffers)
        self.agreed.close()
        where = f"after step {self.step}: go on with --resume {self.folder.latest}"
        if self.checkpoints is not None:
            try:
                self.checkpoints.finish(_AT_A_STOP_S)
            except InputError as error:
                self.checkpoints.close()  # here, where the signal's limit holds: a disk that hangs may take for ever
                where = f"after step {self.step}, which is not saved: {str(error).removesuffix('.')}"
        self.world.wait_for_all()  # a launcher ends all ranks as soon as one has ended
        raise signals.Stopped(number, where)

    def _leave(self) -> str:
        """What is done and said where the process ends before the next step does."""
        if self.world.is_main:
            self.folder.clear()
        return f"go on with --resume {self.folder.latest}." if self.folder.latest.exists() else "nothing was saved yet."

    def _save(self, buffers: Tensor, *names: str) -> None:
        """Has a checkpoint written, as the latest and under other names."""
        self.saved = True
        if self.checkpoints is None:
            return
        # The last logged loss is from before the last update.
        largest = nn.utils.get_total_norm(list(self.model.parameters()), norm_type=math.inf)
        self._refuse_divergence("largest weight", float(largest))
        self.checkpoints.save(self._state(buffers), (LATEST, *names))
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
            "data": self.data,
            "store": self.train_loader.store,
            "decoder": self.train_loader.decoder,
        }

    def _restore(self, start: Start) -> list[str]:
        """Goes on from a checkpoint; what is no longer as it was there, a phrase each."""
        state = start.state
        changed = [*start.changed, *changed_data(state["data"], self.data, force=start.force)]
        decoders = state.get("decoder"), self.train_loader.decoder
        changed += changed_decoder(*decoders, self.recipe.interpolation, force=start.force)
        self.model.load_state_dict(state["model"])
        if not self.train_step.restore(state) and self.world.is_main:
            here = self.train_step.precision.dtype
            print(f"[Warning] Trained in {state['dtype']} so far; this device goes on in {here}.")
        buffers = state["buffers"]
        same_ranks = len(buffers) == self.world.world_size
        set_buffers(self.train_step.models, buffers[self.world.rank] if same_ranks else buffers.mean(dim=0))
        self.epoch, self.step_in_epoch = state["epoch"], min(state["step_in_epoch"], self.steps_per_epoch)
        if self.folder.best.exists():  # else the next epoch's is the best that there is
            self.best_top1, self.best_epoch = state["best_top1"], state["best_epoch"]
        self.meter.restore(state["meter"])
        self.weights_from = state["weights_from"]
        return changed
