"""Whether draws know of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Columns = npt.NDArray[Any]


def correlation(one: Columns, other: Columns) -> float:
    """The greatest correlation of a column of one with a column of the other, 0 to 1.

    Of ranks, and of how far these are from the middle: draws that share a number need not rise together.

    Args:
        one: (n, a) of any numbers.
        other: (n, b).
    """
    return float(np.abs(_features(one).T @ _features(other)).max())


def is_independent(correlation: float, count: int) -> bool:
    """Whether independent columns of `count` numbers would give that: it is below five standard deviations."""
    return correlation < 5.0 / count**0.5


def _features(columns: Columns) -> npt.NDArray[np.float64]:
    ranks = stats.rankdata(columns, axis=0)
    ranks -= ranks.mean(axis=0)
    distances = np.abs(ranks)
    features = np.concatenate((ranks, distances - distances.mean(axis=0)), axis=1)
    # A column that is constant, or has two values equally often, has nothing to divide by.
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=0), 1.0))
