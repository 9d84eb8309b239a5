"""Sums behind the log rows, kept on the device between them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loaders import Batch, Loader
from twistnet import machine
from twistnet.bottleneck import Seen
from twistnet.distributed import World
from twistnet.loss import right_answers
from twistnet.waits import waits_of

_STAGES = ("stage", "read", "decode", "buffer", "upload", "augment")


class Meter:
    """Loss, accuracy and speed of training since the last row, and since the epoch began.

    Attributes:
        step_s: seconds of this start in steps and waiting for their batches, up to the last row.
    """

    def __init__(self, world: World, loader: Loader) -> None:
        self._world, self._loader = world, loader
        self._sums = torch.zeros(4, dtype=torch.float64, device=world.device)
        self._epoch_sums = [0.0] * 4  # loss, top-1, top-5 and samples, over all ranks
        self._since = self._epoch_since = 0.0
        self._waits = waits_of(loader, world.device)
        self._used = self._epoch_used = _Used()
        self._epoch_images = 0.0
        self._total_s = self._total_images = 0.0
        self.step_s = 0.0
        self._began, self._before_s = time.monotonic(), 0.0

    @property
    def images_per_s(self) -> float:
        """Over all whole epochs of the run, validation left out."""
        return self._total_images / self._total_s if self._total_s else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, right after a `read`."""
        run_s = self._before_s + time.monotonic() - self._began
        totals = {"images": self._total_images, "seconds": self._total_s, "run_s": run_s}
        return {"epoch_sums": self._epoch_sums, **totals}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's `state`."""
        self._epoch_sums = list(state["epoch_sums"])
        self._total_images, self._total_s, self._before_s = state["images"], state["seconds"], state["run_s"]

    def start(self) -> None:
        """Begins to measure an epoch, or the rest of one."""
        self._since = self._epoch_since = time.perf_counter()
        self._used = self._epoch_used = _Used.now(self._loader)
        self._waits.start()
        self._epoch_images = 0.0

    def begin(self) -> None:
        """To be called when a batch has come, before its step."""
        self._waits.begin()

    def end(self) -> None:
        """To be called after its step."""
        self._waits.end()

    def count(self, logits: Tensor, loss: Tensor, batch: Batch) -> None:
        """Adds a batch whose loss is finite, without waiting for the device: the step of another one is skipped."""
        row = torch.stack((loss.double() * len(logits), *right_answers(logits, batch), batch.valid.sum().double()))
        self._sums += row.where(loss.isfinite(), 0.0)

    def read(self) -> dict[str, float]:
        """What was counted since the last call, over all ranks, which all call this at the same step; NaN for the
        means where nothing was."""
        sums = self._world.sum(self._sums).tolist()  # the one point where the host waits for the device
        self._sums.zero_()
        self._waits.read()
        self._epoch_sums = [a + b for a, b in zip(self._epoch_sums, sums, strict=True)]
        self._epoch_images += sums[3]
        now, used = time.perf_counter(), _Used.now(self._loader)
        measured = _means(sums) | _speed(sums[3], now - self._since, (used - self._used).waited_s)
        self.step_s += now - self._since
        self._since, self._used = now, used
        return measured

    def read_epoch(self) -> tuple[dict[str, float], dict[str, float], Seen]:
        """The same for the epoch, the seconds of every loading stage on this rank, and what the rank has seen that
        waited most; starts the next epoch's sums. All ranks call it."""
        sums, self._epoch_sums = self._epoch_sums, [0.0] * 4
        seconds = self._since - self._epoch_since  # to the last `read`: validation comes after it
        self._total_s += seconds
        self._total_images += self._epoch_images
        used = self._used - self._epoch_used
        measured = _means(sums) | _speed(self._epoch_images, seconds, used.waited_s)
        stages = {name: round(took, 3) for name, took in used.stages.items()}
        return measured, stages, self._slowest(seconds, used)

    def _slowest(self, seconds: float, used: _Used) -> Seen:
        waits, images = self._waits, self._epoch_images / self._world.world_size
        here = [seconds, waits.steps, waits.waited_steps, waits.waited_s, used.cpu_s, used.read_bytes, images]
        here += [used.stages.get(name, 0.0) for name in _STAGES]
        ranks = self._world.gather(torch.tensor(here, dtype=torch.float64, device=self._world.device))
        rank = int(ranks[:, 3].argmax())
        seconds, steps, waited_steps, waited_s, cpu_s, read_bytes, images, *stages = ranks[rank].tolist()
        return Seen(
            rank=rank,
            seconds=seconds,
            steps=int(steps),
            waited_steps=int(waited_steps),
            waited_s=waited_s,
            stages=dict(zip(_STAGES, stages, strict=True)),
            cpu_s=cpu_s,
            read_bytes=int(read_bytes),
            images=int(images),
        )


@dataclass(frozen=True, slots=True)
class _Used:
    """What this process has used since it began."""

    stages: Mapping[str, float] = field(default_factory=dict)
    cpu_s: float = 0.0
    read_bytes: int = 0

    @classmethod
    def now(cls, loader: Loader) -> _Used:
        return cls(dict(loader.seconds()), time.process_time(), machine.read_bytes())

    @property
    def waited_s(self) -> float:
        """Seconds that the consumer spent in `next()`."""
        return self.stages.get("wait", 0.0)

    def __sub__(self, before: _Used) -> _Used:
        stages = {name: total - before.stages.get(name, 0.0) for name, total in self.stages.items()}
        return _Used(stages, self.cpu_s - before.cpu_s, self.read_bytes - before.read_bytes)


def _means(sums: list[float]) -> dict[str, float]:
    samples = sums[3] or math.nan
    return {"loss": sums[0] / samples, "top1": sums[1] / samples, "top5": sums[2] / samples}


def _speed(images: float, seconds: float, waited: float) -> dict[str, float]:
    return {
        "images_per_s": round(images / seconds, 1) if seconds > 0 else 0.0,
        "seconds": round(seconds, 3),
        "wait_s": round(waited, 3),
    }
