"""Means, spreads, and tests of paired accuracies of two models.

Runs are paired by fold and seed. Seeds on one fold share its images, so that they are no samples of their own: their
mean is one sample, and both tests are over folds. Training sets of different folds overlap, so that these are not
independent either and an ordinary paired t-test finds too much: Nadeau and Bengio, "Inference for the Generalization
Error", Machine Learning 52 (2003), correct its variance by the test set's size over the training set's. Wilcoxon's
signed-rank test beside it assumes no normal distribution, but independent folds: of the two the corrected t-test is the
one to quote. On a single fold the samples are the seeds, and what is found holds for that split alone.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

_NOTHING = 1e-12  # of accuracies from 0 to 1: what rounding makes of differences that are equal
_DECIMALS = 12
WILCOXON_LEAST = 6  # samples; of fewer its least p, 2 / 2^n, is above 0.05

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of accuracies by fold and seed.

    Attributes:
        mean: of all runs.
        std: standard deviation of all runs (n - 1); None of fewer than two.
        std_folds: standard deviation of the folds' means over their seeds; None of fewer than two folds.
        std_seeds: root of the mean variance over seeds within a fold, which is what another seed changes; None where
            no fold has two.
    """

    mean: float
    std: float | None
    std_folds: float | None
    std_seeds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Of a model with the baseline.

    Attributes:
        pairs: runs of the same fold and seed.
        folds: that these are on.
        difference: mean of the model's accuracies less the baseline's: of pairs within a fold, then of folds.
        t: the corrected t; None where it is not defined: of one sample, or where all differences are the same.
        t_p: two-sided p-value of it.
        wilcoxon_p: two-sided p-value of the signed-rank test; None of fewer samples than `WILCOXON_LEAST`.
        t_holm: `t_p` corrected for all models that the baseline is compared with.
        wilcoxon_holm: `wilcoxon_p` likewise.
    """

    pairs: int
    folds: int
    difference: float
    t: float | None
    t_p: float | None
    wilcoxon_p: float | None
    t_holm: float | None = None
    wilcoxon_holm: float | None = None

    @property
    def samples(self) -> int:
        """What the tests are over: folds, or the pairs on a single fold."""
        return self.folds if self.folds > 1 else self.pairs


def summary(values: Mapping[Pair, float]) -> Summary:
    """Mean and spreads of values by (fold, seed)."""
    by_fold = defaultdict(list)
    for (fold, _), value in values.items():
        by_fold[fold].append(value)
    within = [statistics.variance(some) for some in by_fold.values() if len(some) > 1]
    return Summary(
        mean=statistics.fmean(values.values()),
        std=_std(list(values.values())),
        std_folds=_std([statistics.fmean(some) for some in by_fold.values()]),
        std_seeds=math.sqrt(statistics.fmean(within)) if within else None,
    )


def compare(
    models: Sequence[Mapping[Pair, float]], baseline: Mapping[Pair, float], test_to_train: float
) -> list[Comparison | None]:
    """Compares models with a baseline, their p-values corrected for each other by Holm's method.

    Args:
        models: of each its accuracies by (fold, seed).
        baseline: the same of the baseline.
        test_to_train: samples of a fold's test split over those of its training split.

    Returns:
        A comparison of each model; None of one that shares no fold and seed with the baseline.
    """
    found = [_compared(model, baseline, test_to_train) for model in models]
    there = [one for one in found if one is not None]
    t = iter(holm([one.t_p for one in there]))
    wilcoxon = iter(holm([one.wilcoxon_p for one in there]))
    return [None if one is None else replace(one, t_holm=next(t), wilcoxon_holm=next(wilcoxon)) for one in found]


def _compared(model: Mapping[Pair, float], baseline: Mapping[Pair, float], test_to_train: float) -> Comparison | None:
    by_fold: dict[int, list[float]] = defaultdict(list)
    for fold, seed in sorted(set(model) & set(baseline)):
        by_fold[fold].append(model[fold, seed] - baseline[fold, seed])
    if not by_fold:
        return None
    if len(by_fold) > 1:
        samples, overlap = [statistics.fmean(some) for some in by_fold.values()], test_to_train
    else:  # runs on a single fold share their test set whatever is done: there only seeds can be told apart
        (samples,), overlap = by_fold.values(), 0.0
    t, t_p = corrected_t(samples, overlap)
    return Comparison(
        pairs=sum(map(len, by_fold.values())),
        folds=len(by_fold),
        difference=statistics.fmean(samples),
        t=t,
        t_p=t_p,
        wilcoxon_p=wilcoxon(samples) if len(samples) >= WILCOXON_LEAST else None,
    )


def corrected_t(differences: Sequence[float], test_to_train: float) -> tuple[float | None, float | None]:
    """The corrected resampled t-test: t = mean / sqrt((1 / n + test / train) * variance), of n - 1 degrees of freedom.

    Args:
        differences: of n pairs.
        test_to_train: test samples over training samples; 0 gives the ordinary paired t-test.

    Returns:
        t and its two-sided p-value; (0, 1) where no pair differs; None where all differ by the same, or of one pair.
    """
    n = len(differences)
    if n < 2:
        return None, None
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    if std <= _NOTHING:
        return (0.0, 1.0) if abs(mean) <= _NOTHING else (None, None)
    t = mean / (math.sqrt(1 / n + test_to_train) * std)
    return t, student_p(t, n - 1)


def student_p(t: float, degrees: int) -> float:
    """Two-sided p-value of Student's t.

    It is the regularised incomplete beta function I_x(degrees / 2, 1 / 2) at x = degrees / (degrees + t^2), computed by
    Lentz's continued fraction (Press et al., Numerical Recipes, 6.4).
    """
    x = degrees / (degrees + t * t)
    a, b = degrees / 2, 0.5
    if x < (a + 1) / (a + b + 2):
        return _beta_fraction(x, a, b)
    return 1 - _beta_fraction(t * t / (degrees + t * t), b, a)


def _beta_fraction(x: float, a: float, b: float) -> float:
    if x == 0:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact with ties, too: over all signs of the ranks.

    Pairs that do not differ are left out, and equal differences share their mean rank.

    Returns:
        1 where no pair differs.
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), _DECIMALS)
    rounded = rounded[rounded != 0]
    if len(rounded) == 0:
        return 1.0
    _, place, counts = np.unique(np.abs(rounded), return_inverse=True, return_counts=True)
    twice = (2 * np.cumsum(counts) - counts + 1)[place]  # twice the mean rank, which is whole
    chances = np.ones(1)  # of every sum of the ranks with a positive sign
    for rank in twice:
        chances = np.pad(chances, (0, rank)) / 2 + np.pad(chances, (rank, 0)) / 2
    seen = int(twice[rounded > 0].sum())
    return min(1.0, 2 * float(min(chances[: seen + 1].sum(), chances[seen:].sum())))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for each other by Holm's step-down method; None stays None and is not counted."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p))
        found[place] = largest
    return found


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
