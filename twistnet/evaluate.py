"""Accuracy over a split, every sample counted exactly once on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from loaders import Loader
from twistnet.distributed import World
from twistnet.loss import mixed_cross_entropy, right_answers
from twistnet.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Counts over a split, summed over ranks.

    Attributes:
        samples: how many were scored.
        right: how many had their label first.
        right5: how many had it among the first five.
        loss_sum: cross-entropy, summed.
    """

    samples: int
    right: int
    right5: int
    loss_sum: float

    @property
    def top1(self) -> float:
        """Share right, 0 to 1."""
        return self.right / self.samples

    @property
    def top5(self) -> float:
        """Share right among the first five, 0 to 1."""
        return self.right5 / self.samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.samples


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    world: World,
    precision: Precision,
    *,
    flip_tta: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Scores the model on every sample of the loader's split.

    With `flip_tta` the logits are the mean of those of each image and of its mirror image. `after_batch` is called
    after each, equally often on all ranks, and may raise to end it.

    Ranks score their slices with padding masked out, and the counts are summed, so that the score does not depend on
    how many ranks there are.
    """
    model.eval()
    world.watchdog.at("scoring")
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)
    for batch in loader.epoch(0):
        with precision.autocast():
            logits = model(batch.images)
            if flip_tta:
                logits = (logits + model(batch.images.flip(3))) / 2
        loss_sum = mixed_cross_entropy(logits, batch, 0.0) * len(logits)
        sums += torch.cat((batch.valid.sum()[None].double(), right_answers(logits, batch), loss_sum[None].double()))
        world.watchdog.at("scoring")
        after_batch()
    samples, right, right5, loss = world.sum(sums).tolist()
    return Score(samples=round(samples), right=round(right), right5=round(right5), loss_sum=loss)
