"""Accuracy over a split, every sample counted exactly once on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loaders import Batch, Loader
from twistnet.distributed import World
from twistnet.loss import class_counts, mixed_cross_entropy, right_answers
from twistnet.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Counts over a split, summed over ranks.

    Attributes:
        samples: how many were scored.
        right: how many had their label first.
        right5: how many had it among the first five.
        loss_sum: cross-entropy, summed.
        class_samples: how many of each class.
        class_right: how many of each class had it first.
    """

    samples: int
    right: int
    right5: int
    loss_sum: float
    class_samples: tuple[int, ...]
    class_right: tuple[int, ...]

    @property
    def top1(self) -> float:
        """Share right, 0 to 1."""
        return self.right / self.samples

    @property
    def top5(self) -> float:
        """Share right among the first five, 0 to 1."""
        return self.right5 / self.samples

    @property
    def balanced(self) -> float:
        """Mean of the classes' own shares right, 0 to 1, over the classes that have samples."""
        shares = [right / of for right, of in zip(self.class_right, self.class_samples, strict=True) if of]
        return sum(shares) / len(shares)

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
    note: Callable[[Tensor, Batch], None] = lambda *_: None,
    after_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Scores the model on every sample of the loader's split.

    With `flip_tta` the logits are the mean of those of each image and of its mirror image. `note` is given the logits
    (B, C) of each batch; `after_batch` is called after it, equally often on all ranks, and may raise to end it.

    Ranks score their slices with padding masked out, and the counts are summed, so that the score does not depend on
    how many ranks there are.
    """
    model.eval()
    world.watchdog.at("scoring")
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)
    counts = torch.zeros(2, len(loader.classes), dtype=torch.float64, device=world.device)
    for batch in loader.epoch(0):
        with precision.autocast():
            logits = model(batch.images)
            if flip_tta:
                logits = (logits + model(batch.images.flip(3))) / 2
        loss_sum = mixed_cross_entropy(logits, batch, 0.0) * len(logits)
        sums += torch.cat((batch.valid.sum()[None].double(), right_answers(logits, batch), loss_sum[None].double()))
        counts += class_counts(logits, batch, len(loader.classes))
        note(logits, batch)
        world.watchdog.at("scoring")
        after_batch()
    samples, right, right5, loss, *by_class = world.sum(torch.cat((sums, counts.flatten()))).tolist()
    each = [round(count) for count in by_class]
    return Score(
        samples=round(samples),
        right=round(right),
        right5=round(right5),
        loss_sum=loss,
        class_samples=tuple(each[: len(loader.classes)]),
        class_right=tuple(each[len(loader.classes) :]),
    )
