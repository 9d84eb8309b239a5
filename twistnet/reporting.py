"""What a run says: rows of its log, lines for people, and curves, of rank 0; and each rank of its bad images."""

from __future__ import annotations

import datetime
import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loaders import Loader
from loaders.errors import one_line
from loaders.sources import shown
from twistnet import environment
from twistnet.advice import Setting
from twistnet.bottleneck import Seen
from twistnet.curves import draw_curves
from twistnet.distributed import World
from twistnet.evaluate import Score
from twistnet.job import Job
from twistnet.progress import Progress
from twistnet.recipe import Recipe
from twistnet.run_folder import RunFolder
from twistnet.taking_part import TakingPart

_SHORT_S = 30.0  # a run of less has its curves drawn at its end alone, if at all
_DRAWN_SHARE = 100  # of the time between two drawings, at most one part goes into a drawing
_SPANS_SHOWN = 8
BAD_SHOWN = 5  # of the images that were replaced since the last row


class Report:
    """The log of a run and the lines that it prints.

    Args:
        folder: the run's, made by now on rank 0.
        world: this rank among the others.
        loader: that of training.
        setting: what the advice of an epoch's line depends on.
    """

    def __init__(self, folder: RunFolder, world: World, loader: Loader, setting: Setting) -> None:
        self._folder, self._world, self._loader, self._setting = folder, world, loader, setting
        self._bad_told = 0
        self._epochs, self._draws_short = 0, True
        self._draw_from = self._long_from = time.monotonic() + _SHORT_S
        self._drawing: threading.Thread | None = None

    def hello(self, recipe: Recipe, job: Job, step: int, changed: list[str], progress: Progress) -> None:
        """Says what begins."""
        self._epochs, self._draws_short = recipe.epochs, job.draw_short
        world, loader = self._world, self._loader
        progress.say(
            f"Training {recipe.model} on {loader.num_samples:,} images of {len(loader.classes)} classes: "
            f"{counted(recipe.epochs, 'epoch')} of {counted(len(loader), 'step')}, total batch "
            f"{recipe.total_batch(world.world_size)} on {world.world_size} x {world.device.type}, "
            f"lr {recipe.peak_lr(world.world_size):g}, from step {step}; {self._folder.path}"
        )
        alone = [name for name in ("sync_batch_norm", "compress_gradients") if getattr(recipe, name)]
        if alone and world.world_size == 1:
            progress.say(f"{' and '.join(alone)} without effect: there is one process.")
        progress.say(f"Reading {shown(job.data_dir)}: {loader.choice}")
        if changed:
            progress.say(f"[Warning] Forced to go on with {', '.join(changed)}.")

    def opened(
        self,
        step: int,
        epoch: int,
        recipe: Recipe,
        dtype: str,
        weights_from: Mapping[str, Any] | None,
        changed: list[str],
        taking_part: TakingPart | None,
    ) -> None:
        """Writes what is known before the first step, of this start and in the log of every start."""
        self._folder.rewind_log(step)
        self._folder.write_json("recipe.json", recipe.to_dict())
        env = environment.describe(self._world.device) | {
            "store": self._loader.store,
            "decoder": self._loader.decoder,
            "dtype": dtype,
            "world_size": self._world.world_size,
            "weights_from": weights_from,
            "ranks": taking_part.to_dict() if taking_part else None,
        }
        self._folder.write_json("env.json", env)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        start = {"kind": "start", "step": step, "epoch": epoch + 1, "time": now, "env": env}
        self._folder.append(start | {"recipe": recipe.to_dict()} | ({"changed": changed} if changed else {}))

    def steps(self, row: Mapping[str, Any], progress: Progress) -> None:
        """The steps since the last row; what was measured of none of them is left out."""
        if self._world.is_main:
            known = {name: value for name, value in row.items() if not _is_nan(value)}
            self._folder.append({"kind": "steps", **known})
            if "loss" in known:
                progress.note(f"loss {known['loss']:.3f}")
        self._bad_images(progress)

    def bad_steps(self, steps: Sequence[int], epoch: int, steps_per_epoch: int, job: Job) -> None:
        """Notes steps of an epoch that were skipped, all counted from 0 here and from 1 in the file."""
        if not self._world.is_main:
            return
        data_dir = job.data_dir.absolute() if isinstance(job.data_dir, Path) else job.data_dir
        where = {"data_dir": str(data_dir), "stage": str(job.stage.absolute()) if job.stage else None}
        for step in steps:
            place = step - epoch * steps_per_epoch
            counts = {"step": step + 1, "epoch": epoch + 1, "place": place + 1}
            self._folder.append_bad_step(counts | {"ids": self._loader.ids(epoch, place).tolist()} | where)

    def epoch(self, row: Mapping[str, Any], score: Score, seen: Seen, progress: Progress) -> None:
        """An epoch and its validation, and what bound it."""
        validation = {"val_loss": score.loss, "val_top1": score.top1, "val_top5": score.top5}
        shares = {"shares": shares} if (shares := self._loader.shares()) else {}
        bound = {"bound_by": self._setting.bound(seen), "waited_steps": seen.waited_share} if seen.steps else {}
        self._folder.append({"kind": "epoch", **row, **validation, "val_samples": score.samples, **shares, **bound})
        progress.say(
            f"Epoch {row['epoch']}: val_acc {score.top1:.2%}, top-5 {score.top5:.2%}, loss {row['loss']:.3f}, "
            f"{row['images_per_s']:.0f} img/s"
        )
        if bound:
            progress.say(self._setting.line(seen))

    def draw(self, epoch: int, progress: Progress) -> None:
        """Has the curves drawn by a thread, after the last epoch and after others where it is time: with epochs of a
        second a third of the time would go into pictures, and of many short runs a tenth.

        Args:
            epoch: that has ended, counted from 1.
            progress: told where they cannot be drawn.
        """
        busy = self._drawing is not None and self._drawing.is_alive()
        now = time.monotonic()
        due = now >= self._draw_from and not busy
        at_the_end = epoch >= self._epochs and (self._draws_short or now >= self._long_from)
        if not (due or at_the_end):
            return
        self.close()
        self._drawing = threading.Thread(target=self._draw, args=(progress,), name="curves", daemon=True)
        self._drawing.start()

    def close(self) -> None:
        """Waits for the curves that are being drawn."""
        if self._drawing is not None:
            self._drawing.join()

    def _draw(self, progress: Progress) -> None:
        """Draws them, and says when again."""
        began = time.monotonic()
        try:
            draw_curves(self._folder)
        except Exception as error:  # whatever a drawing package runs into is no reason to lose a run
            progress.say(f"[Warning] curves.png could not be drawn: {one_line(error)}")
        ended = time.monotonic()
        self._draw_from = ended + _DRAWN_SHARE * (ended - began)

    def _bad_images(self, progress: Progress) -> None:
        """Each rank of its own, which no other one has seen; new ones only."""
        bad = list(self._loader.bad.items())
        for number, (key, reason) in list(enumerate(bad, 1))[self._bad_told :][:BAD_SHOWN]:
            progress.say(f"[Warning] {key} cannot be decoded ({reason}): replaced; {number} so far.")
        self._bad_told = len(bad)


def counted(count: int, what: str) -> str:
    """A number and its noun, "1 step" or "2 steps"."""
    return f"{count} {what}{'s' * (count != 1)}"


def spans(numbers: Iterable[int]) -> str:
    """Numbers in their order, those that follow each other joined: "4, 44 to 54"; the last eight such."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in found[-_SPANS_SHOWN:]]
    return ("..., " if len(found) > _SPANS_SHOWN else "") + ", ".join(shown)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
