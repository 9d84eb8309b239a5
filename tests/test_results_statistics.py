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
    baseline = by_pair([0.60, 0.62, 0.58, 0.61, 0.63, 0.59, 0.6, 0.6, 0.61, 0.62, 0.57, 0.58], seeds=2)
    differences = [
        [0.01, 0.03, 0.02, 0.02, 0.01, 0.03, 0.04, 0.02, 0.01, 0.02, 0.03, 0.04],
        [0.01, -0.02, 0.015, 0.0, 0.005, -0.01, 0.02, 0.01, -0.01, 0.02, 0.01, -0.02],
    ]
    models = [by_pair([b + d for b, d in zip(baseline.values(), some, strict=True)], 2) for some in differences]
    shuffled = dict(reversed(models[0].items()))
    lacking = {pair: value for pair, value in models[1].items() if pair != (1, 0)}
    first, second, third = compare([shuffled, lacking, {(9, 9): 0.5}], baseline, 1.0)
    assert third is None, "no pair at all"
    assert isinstance(first, Comparison)
    assert isinstance(second, Comparison)
    assert (first.pairs, first.folds, second.pairs, second.folds) == (12, 6, 11, 6)
    folds = [0.02, 0.02, 0.02, 0.03, 0.015, 0.035]  # by hand: the means of the first model's two seeds
    assert first.difference == pytest.approx(statistics.fmean(folds))
    t, p = corrected_t(folds, 1.0)
    assert (first.t, first.t_p) == (pytest.approx(t), pytest.approx(p))
    assert first.wilcoxon_p == pytest.approx(2 / 64)
    assert second.t == pytest.approx(corrected_t([-0.02, 0.0075, -0.0025, 0.015, 0.005, -0.005], 1.0)[0])
    assert [first.t_holm, second.t_holm] == pytest.approx(holm([first.t_p, second.t_p]))
    assert [first.wilcoxon_holm, second.wilcoxon_holm] == pytest.approx(holm([first.wilcoxon_p, second.wilcoxon_p]))
    assert first.wilcoxon_holm is not None
    assert first.wilcoxon_holm > first.wilcoxon_p


def test_a_single_fold_is_compared_over_its_seeds_alone() -> None:
    baseline = {(1, seed): 0.6 for seed in range(6)}
    model = {(1, seed): 0.6 + one for seed, one in enumerate([0.01, 0.02, 0.03, 0.02, -0.005, 0.04])}
    (found,) = compare([model], baseline, 1.0)
    assert found is not None
    pairs = list(model.values()), list(baseline.values())
    assert found.t == pytest.approx(scipy.stats.ttest_rel(*pairs).statistic)
    assert found.wilcoxon_p == wilcoxon([0.01, 0.02, 0.03, 0.02, -0.005, 0.04])


@pytest.mark.parametrize("folds", [1, 2, 5, 6])
def test_what_cannot_be_small_is_no_number(folds: int) -> None:
    (found,) = compare([by_pair([0.7 + 0.01 * fold for fold in range(folds)])], by_pair([0.6] * folds), 1.0)
    assert found is not None
    assert (found.t_p is None) == (folds < 2)
    least = 2 / 2**folds  # of Wilcoxon's test, where all differences have one sign
    assert found.wilcoxon_p == (least if least < 0.05 else None)


@pytest.mark.parametrize("folds", [2, 4, 10])
def test_models_that_do_not_differ_are_seldom_told_apart_however_many_their_seeds(folds: int) -> None:
    # A fold's images suit one model or the other, which all of its seeds share: the noise of seeds is the smaller part.
    rng = np.random.default_rng(20)
    tables, seeds, found = 400, 3, {"t": 0, "wilcoxon": 0}
    for _ in range(tables):
        differences = rng.normal(0, 0.01, (folds, 1)) + rng.normal(0, 0.004, (folds, seeds))
        baseline = rng.normal(0.6, 0.02, (folds, seeds))
        model = by_pair(list((baseline + differences).ravel()), seeds)
        (one,) = compare([model], by_pair(list(baseline.ravel()), seeds), 0.02)
        assert one is not None
        assert one.t_p is not None
        found["t"] += one.t_p < 0.05
        found["wilcoxon"] += one.wilcoxon_p is not None and one.wilcoxon_p < 0.05
    assert found["t"] <= 0.07 * tables
    assert found["wilcoxon"] <= 0.07 * tables
    assert found["t"] >= 0.01 * tables, "a test that never finds anything would pass, too"
    assert folds < 6 or found["wilcoxon"] >= 0.01 * tables


def test_the_correction_holds_for_folds_whose_training_sets_overlap() -> None:
    # Nadeau and Bengio take the correlation of two folds as test / (test + train), here of halves: 1 / 2.
    rng = np.random.default_rng(21)
    shares = {0.0: 0, 1.0: 0}
    for _ in range(400):
        differences = rng.normal(0, 0.01) + rng.normal(0, 0.01, 10)
        for ratio in shares:
            (one,) = compare([by_pair(list(0.6 + differences))], by_pair([0.6] * 10), ratio)
            assert one is not None
            assert one.t_p is not None
            shares[ratio] += one.t_p < 0.05
    assert shares[1.0] <= 0.07 * 400
    assert shares[0.0] > 0.2 * 400, "without it"
