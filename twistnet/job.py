"""What a training run is asked for, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from launch.ranks import Ranks
from loaders import InputError
from loaders.kept import KeptPixels
from twistnet.evaluate import Score
from twistnet.step import Compile
from twistnet.watchdog import Watchdog


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training run: where its data and its files are, and how this machine is used. None of it changes the weights.

    Attributes:
        data_dir: the data set's folder; with `stage` also the URL of a converted set.
        train_split: name of the split to train on.
        val_split: name of the split that is scored after every epoch.
        run_dir: where the run's files go.
        weights_name: file name of the final weights.
        workers: decoding threads of this rank; None takes the usable cores.
        store: as `loaders.open_loader` takes it, like the following three.
        decoder: what makes pixels of bytes.
        max_bad: largest share of a split's images that a process may replace.
        verify: whether every image is held to its checksum.
        stage: folder on a local disk that shards are copied to while they are needed; None: they are read in place.
        stage_gb: how much they may take there; None: what the disk has.
        kept: where decoded images stay, for all loaders of this process that are given it; None: nowhere.
        publish_to: the folder that final weights are copied to by the command; kept in checkpoints.
        compile: whether the model is compiled, as `TrainStep` takes it.
        profile: steps to profile after the first few; 0: none.
        log_every: steps between log rows, at which a checkpoint may be taken.
        checkpoint_minutes: least time between checkpoints inside an epoch; one is taken after every epoch as well.
        draw_short: whether a run of less than half a minute draws its curves, too.
        keep_every: epochs between checkpoints that are kept for good; 0: none.
        hang_minutes: longest time without progress, after which the process ends and says where it stood; 0: none.
        max_skips: most steps in a row that may be skipped because their gradient was not finite.
    """

    data_dir: str | Path
    train_split: str = "train"
    val_split: str = "val"
    run_dir: Path
    weights_name: str
    workers: int | None = None
    store: str = "auto"
    decoder: str = "auto"
    max_bad: float = 0.0
    verify: bool = False
    stage: Path | None = None
    stage_gb: float | None = None
    kept: KeptPixels | None = None
    publish_to: Path | None = None
    compile: Compile = "auto"
    profile: int = 0
    log_every: int = 50
    checkpoint_minutes: float = 10.0
    draw_short: bool = True
    keep_every: int = 100
    hang_minutes: float = 20.0
    max_skips: int = 10

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise InputError(f"log_every {self.log_every} is too small: take at least 1.")
        if self.profile < 0:
            raise InputError(f"profile {self.profile} is negative: it counts steps, from 0 for none.")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers {self.workers} is too small: take at least 1, or leave it out.")
        for name in ("checkpoint_minutes", "keep_every", "hang_minutes", "max_skips"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is negative: take 0 or more.")
        if self.stage_gb is not None and self.stage is None:
            raise InputError(f"stage_gb {self.stage_gb:g} bounds a staging folder: name it with --stage.")
        if self.stage_gb is not None and self.stage_gb <= 0:
            raise InputError(f"stage_gb {self.stage_gb:g} is too small: take more than 0, or leave it out.")

    def watchdog(self) -> Watchdog:
        """What ends this rank when it makes no progress for `hang_minutes`, to be handed to `distributed.join`."""
        return Watchdog(self.run_dir, Ranks.from_env().rank, 60 * self.hang_minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to.

    Attributes:
        best_top1: the best validation accuracy, 0 to 1.
        best_epoch: the epoch that it was reached after, counted from 1.
        last: the score after the last epoch.
        images_per_s: trained on in the run's whole epochs, over all ranks and starts, validation left out.
        step_seconds: that this start spent in training, from the wait for an epoch's first batch to its last step.
        eval_seconds: that it spent in validation.
        model: as it was scored last: after the last epoch, the moving average where there is one.
        weights: the final weights.
        weights_from: what `prepare` loaded when the run began, as `LoadReport` has it; None: nothing.
        train_samples: of the training split.
    """

    best_top1: float
    best_epoch: int
    last: Score
    images_per_s: float
    step_seconds: float
    eval_seconds: float
    model: nn.Module
    weights: Path
    weights_from: Mapping[str, Any] | None
    train_samples: int
