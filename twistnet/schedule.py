"""The learning rate as a pure function of the step, so that nothing of it needs saving."""

from __future__ import annotations

import math


def lr_at(
    step: int,
    *,
    schedule: str,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int,
    peak: float,
    min_share: float,
) -> float:
    """Linear warm-up, then down to `min_share` of the peak.

    Args:
        schedule: "cosine": half a cosine (Loshchilov and Hutter 2017); "linear": a line, as FFCV's ImageNet recipes.
        step: optimiser steps taken before this one, from 0.
        steps_per_epoch: optimiser steps of an epoch.
        epochs: of the whole run, warm-up included.
        warmup_epochs: fewer than `epochs`.
        peak: the rate after warm-up.
        min_share: what the rate ends at, as a share of the peak.
    """
    warmup, total = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    height = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return peak * (min_share + (1.0 - min_share) * height)
