"""The training loss and the counts of right answers, without one-hot targets and without a host synchronisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from loaders import Batch

_TARGET = 0.2  # above which a label counts


def mixed_cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """Cross-entropy with the mixed and smoothed targets of a batch.

    Args:
        logits: (B, C), any float; computed in float32.
        batch: its labels, partner, weight and valid count.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).

    Returns:
        A float32 scalar: the sum over the valid samples divided by B, so that a sample weighs the same in every batch.
    """
    log_p = torch.log_softmax(logits.float(), dim=1)
    own = log_p.gather(1, batch.labels[:, None]).squeeze(1)
    mixed_in = log_p.gather(1, batch.partner[:, None]).squeeze(1)
    likelihood = batch.weight * own + (1.0 - batch.weight) * mixed_in
    per_sample = -(1.0 - label_smoothing) * likelihood - label_smoothing * log_p.mean(dim=1)
    return (per_sample * batch.valid).sum() / len(logits)


def mixed_binary_cross_entropy(logits: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """Binary cross-entropy of every class (Wightman et al. 2021), with targets that are 1 or 0.

    A class's target is whether its mixed and smoothed label is above 0.2, as timm's `BinaryCrossEntropy` has it with
    `target_threshold`: both classes of a mixed sample, unless one of them has a small share.

    Args:
        logits: (B, C), any float; computed in float32.
        batch: its labels, partner, weight and valid count.
        label_smoothing: share of the target spread over all classes.

    Returns:
        A float32 scalar: the mean over classes, summed over the valid samples, divided by B.
    """
    share = batch.weight * (1.0 - label_smoothing)
    target = torch.full_like(logits, label_smoothing / logits.shape[1], dtype=torch.float32)
    target.scatter_add_(1, batch.labels[:, None], share[:, None])
    target.scatter_add_(1, batch.partner[:, None], (1.0 - label_smoothing - share)[:, None])
    wanted = (target > _TARGET).float()
    per_sample = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none").mean(dim=1)
    return (per_sample * batch.valid).sum() / len(logits)


def training_loss(kind: str) -> Callable[[Tensor, Batch, float], Tensor]:
    """The loss of a recipe: "cross_entropy" or "bce"."""
    return mixed_binary_cross_entropy if kind == "bce" else mixed_cross_entropy


def right_answers(logits: Tensor, batch: Batch) -> Tensor:
    """How many valid samples have their label first, and among the first five (or all, where there are fewer).

    A mixed sample counts with the weights of its two labels.

    Returns:
        (2,) float64: top-1 and top-5 counts.
    """
    best = _best(logits)
    own, mixed_in = best == batch.labels[:, None], best == batch.partner[:, None]
    weight = batch.weight.double()[:, None]
    hits = (weight * own + (1.0 - weight) * mixed_in) * batch.valid[:, None]
    return torch.stack((hits[:, 0].sum(), hits.sum()))


def class_counts(logits: Tensor, batch: Batch, num_classes: int) -> Tensor:
    """How many valid samples each class has, and how many of them have it first, by their own labels.

    Returns:
        (2, num_classes) float64.
    """
    counts = torch.zeros(2, num_classes, dtype=torch.float64, device=logits.device)
    valid = batch.valid.double()
    counts[0].index_add_(0, batch.labels, valid)
    counts[1].index_add_(0, batch.labels, valid * (_best(logits)[:, 0] == batch.labels))
    return counts


def _best(logits: Tensor) -> Tensor:
    """(B, 5) the likeliest classes, or all where there are fewer."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices
