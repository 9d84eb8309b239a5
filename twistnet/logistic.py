"""Multinomial logistic regression with an L2 penalty, chosen on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_COARSE = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)  # powers of ten, from which the search is refined
_FINEST = 1 / 8  # of a power of ten
_ITERATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A classifier on features as they are.

    Attributes:
        weight: (C, D) float64.
        bias: (C,) float64.
        l2: the penalty that it was fitted with.
        val_top1: its accuracy on the held-out samples, 0 to 1.
        tried: accuracies there by penalty.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    val_top1: float
    tried: Mapping[float, float]


def choose_l2(features: Tensor, labels: Tensor, val_features: Tensor, val_labels: Tensor, num_classes: int) -> Fit:
    """Fits on standardised features with the penalty that does best on the held-out samples.

    Penalties are searched as Radford et al. 2021 do: seven from 1e-6 to 1e6, then by halving the interval around the
    best one to an eighth of a power of ten; of equals the largest is taken.

    Args:
        features: (N, D).
        labels: (N,), whole numbers below `num_classes`.
        val_features: (M, D).
        val_labels: (M,).
        num_classes: C.
    """
    features, val_features = features.double(), val_features.double()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    std = std.where(std > 0, 1.0)  # a feature that is always the same tells nothing
    inputs, val_inputs = (features - mean) / std, (val_features - mean) / std
    fits: dict[float, tuple[Tensor, Tensor]] = {}
    scores: dict[float, float] = {}

    def attempt(power: float) -> None:
        if power in scores or not _COARSE[-1] <= power <= _COARSE[0]:
            return
        nearest = min(fits, key=lambda known: abs(known - power), default=None)
        fits[power] = fit(inputs, labels, num_classes, 10.0**power, None if nearest is None else fits[nearest])
        weight, bias = fits[power]
        right = (val_inputs @ weight.T + bias).argmax(dim=1) == val_labels
        scores[power] = float(right.double().mean())

    def best() -> float:
        return max(scores, key=lambda power: (scores[power], power))

    for power in _COARSE:
        attempt(power)
    step = (_COARSE[0] - _COARSE[1]) / 2
    while step >= _FINEST:
        around = best()
        attempt(around + step)
        attempt(around - step)
        step /= 2
    power = best()
    weight, bias = fits[power]
    weight = weight / std
    return Fit(
        weight=weight,
        bias=bias - weight @ mean,
        l2=10.0**power,
        val_top1=scores[power],
        tried={10.0**power: score for power, score in scores.items()},
    )


def fit(
    inputs: Tensor, labels: Tensor, num_classes: int, l2: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The minimum of the summed cross-entropy + l2 / 2 x the squared weights, without the bias's.

    scikit-learn's C is 1 / l2.

    Args:
        inputs: (N, D) float64.
        labels: (N,) int64.
        num_classes: C.
        l2: above 0.
        start: where the search begins; zeros unless given. It changes how long it takes, not where it ends.

    Returns:
        Weight (C, D) and bias (C,).
    """
    shape = (num_classes, inputs.shape[1])
    weight, bias = start or (inputs.new_zeros(shape), inputs.new_zeros(num_classes))
    weight, bias = (tensor.clone().requires_grad_() for tensor in (weight, bias))
    optimiser = torch.optim.LBFGS(
        (weight, bias),
        max_iter=_ITERATIONS,
        tolerance_grad=1e-8,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimiser.zero_grad()
        with torch.enable_grad():
            # By the sample, so that rates and tolerances do not depend on their number.
            loss = functional.cross_entropy(inputs @ weight.T + bias, labels)
            loss = loss + l2 / (2 * len(inputs)) * weight.square().sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
