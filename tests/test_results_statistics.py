"""Means, spreads and paired tests of the report, against scipy and numbers worked out by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats

from twistnet.reports.statistics import Comparison, compare, corrected_t, holm, student_p, summary, wilcoxon

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("degrees", [1, 2, 3, 9, 29, 200])
@pytest.mark.parametrize("t", [0.0, 1e-9, -0.3, 1.0, 2.19, -7.0, 40.0, 1e6])
def test_p_of_students_t_is_scipys(t: float, degrees: int) -> None:
    assert student_p(t, degrees) == pytest.approx(2 * scipy.stats.t.sf(abs(t), degrees), rel=1e-9, abs=1e-290)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_without_overlap_the_t_test_is_the_ordinary_paired_one(n: int) -> None:
    ours, theirs = RNG.uniform(0.6, 0.8, (2, n))
    expected = scipy.stats.ttest_rel(ours, theirs)
    t, p = corrected_t(list(ours - theirs), 0.0)
    assert t == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue)


def test_the_corrected_t_by_hand() -> None:
    # mean 0.02, variance 0.0001; (1/3 + 1/2) * 0.0001 = 1 / 12000; with 2 degrees p = 1 - t / sqrt(2 + t^2)
    t, p = corrected_t([0.01, 0.03, 0.02], 0.5)
    assert t == pytest.approx(0.02 * math.sqrt(12000))
    assert p == pytest.approx(1 - math.sqrt(4.8 / 6.8))
    assert corrected_t([0.01, 0.03, 0.02], 0.0)[1] < p, "overlap makes a difference less sure"


def test_the_t_test_says_nothing_where_nothing_varies() -> None:
    assert corrected_t([0.02], 1.0) == (None, None)
    assert corrected_t([0.0, 0.0], 1.0) == (0.0, 1.0)
    assert corrected_t([0.3 - 0.1, 0.4 - 0.2], 1.0) == (None, None), "equal but for rounding"


@pytest.mark.parametrize("n", [2, 6, 10, 30])
def test_wilcoxon_without_ties_is_scipys_exact_one(n: int) -> None:
    differences = RNG.normal(0.01, 0.02, n)
    expected = scipy.stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon(list(differences)) == pytest.approx(expected)


@pytest.mark.parametrize("differences", [[1, 1, 2, -1, 3], [2, -2, 2, 2, 2, 2, -1], [5, 5, 5, 5], [0, 0, 1, -3, 3, 4]])
def test_wilcoxon_with_ties_counts_all_signs(differences: list[int]) -> None:
    kept = [value for value in differences if value]
    ranks = scipy.stats.rankdata(np.abs(kept))
    seen = sum(rank for rank, value in zip(ranks, kept, strict=True) if value > 0)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(kept))
    ]
    tails = [sum(value <= seen for value in sums), sum(value >= seen for value in sums)]
    expected = min(1.0, 2 * min(tails) / len(sums))
    # Shares of a test set: equal ones differ in their last bit.
    assert wilcoxon([(600 + value) / 1880 - 600 / 1880 for value in differences]) == pytest.approx(expected)


def test_wilcoxon_of_no_difference() -> None:
    assert wilcoxon([0.0, 0.0, 0.0]) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, None, 0.6]) == [1.0, None, 1.0], "what has no p-value is not counted"
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_spreads_over_runs_folds_and_seeds() -> None:
    values = {(1, 0): 0.70, (1, 1): 0.74, (2, 0): 0.60, (2, 1): 0.62}
    found = summary(values)
    assert found.mean == pytest.approx(0.665)
    assert found.std == pytest.approx(np.std(list(values.values()), ddof=1))
    assert found.std_folds == pytest.approx(statistics.stdev([0.72, 0.61]))
    assert found.std_seeds == pytest.approx(math.sqrt((0.0008 + 0.0002) / 2))


@pytest.mark.parametrize(
    ("values", "std", "folds", "seeds"),
    [
        ({(1, 0): 0.5}, None, None, None),
        ({(1, 0): 0.5, (2, 0): 0.7}, 0.02**0.5, 0.02**0.5, None),
        ({(1, 0): 0.5, (1, 1): 0.7}, 0.02**0.5, None, 0.02**0.5),
    ],
)
def test_a_spread_of_one_is_none(
    values: dict[tuple[int, int], float], std: float | None, folds: float | None, seeds: float | None
) -> None:
    found = summary(values)
    for value, expected in ((found.std, std), (found.std_folds, folds), (found.std_seeds, seeds)):
        assert value == (None if expected is None else pytest.approx(expected))


def by_pair(values: list[float], seeds: int = 1) -> dict[tuple[int, int], float]:
    return {(1 + place // seeds, place % seeds): value for place, value in enumerate(values)}


def test_models_are_paired_by_fold_and_seed_and_corrected_for_each_other() -> None:
    baseline = by_pair([0.60, 0.62, 0.58, 0.61, 0.63, 0.59], seeds=2)
    differences = [[0.01, 0.03, 0.02, 0.02, 0.01, 0.03], [0.01, -0.02, 0.015, 0.0, 0.005, -0.01]]
    models = [by_pair([b + d for b, d in zip(baseline.values(), some, strict=True)], 2) for some in differences]
    shuffled = dict(reversed(models[0].items()))
    lacking = {pair: value for pair, value in models[1].items() if pair != (1, 0)}
    first, second, third = compare([shuffled, lacking, {(9, 9): 0.5}], baseline, 1.0)
    assert third is None, "no pair at all"
    assert isinstance(first, Comparison)
    assert isinstance(second, Comparison)
    assert (first.pairs, second.pairs) == (6, 5)
    assert first.difference == pytest.approx(0.02)
    t, p = corrected_t(differences[0], 1.0)
    assert (first.t, first.t_p) == (pytest.approx(t), pytest.approx(p))
    assert [first.t_holm, second.t_holm] == pytest.approx(holm([first.t_p, second.t_p]))
    assert [first.wilcoxon_holm, second.wilcoxon_holm] == pytest.approx(holm([first.wilcoxon_p, second.wilcoxon_p]))
    assert first.wilcoxon_holm > first.wilcoxon_p


def test_a_single_fold_is_compared_over_its_seeds_alone() -> None:
    baseline = {(1, seed): 0.6 for seed in range(4)}
    model = {(1, seed): 0.6 + difference for seed, difference in enumerate([0.01, 0.02, 0.03, 0.02])}
    (found,) = compare([model], baseline, 1.0)
    assert found is not None
    assert found.t == pytest.approx(scipy.stats.ttest_rel(list(model.values()), list(baseline.values())).statistic)


def test_without_the_size_of_the_training_set_there_is_no_t() -> None:
    (found,) = compare([by_pair([0.7, 0.8, 0.75])], by_pair([0.6, 0.65, 0.7]), None)
    assert found is not None
    assert (found.t, found.t_p, found.t_holm) == (None, None, None)
    assert found.wilcoxon_p == 0.25
