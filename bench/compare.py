"""Whether two sets of rows differ by more than their rounds do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.reading import Row, read_rows
from loaders import InputError

LEVEL = 0.05  # of false discoveries among those that are called different


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two measurements of the same thing.

    Attributes:
        subject: bench, thing and options.
        ratio: of the medians, B to A.
        n: rounds of A and of B.
        p: that two such samples come from one distribution, by the Mann-Whitney rank test, two-sided.
        adjusted: the same, for as many comparisons as were made (Benjamini and Hochberg's false discovery rate).
    """

    subject: tuple[str, ...]
    ratio: float
    n: tuple[int, int]
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """For people to read."""
        if self.adjusted > LEVEL:
            return "no difference beyond the spread"
        return "B is faster" if self.ratio > 1 else "B is slower"


def compare(a: str, b: str) -> None:
    """Compares rows of the same things in two runs, commits or files, by a rank test over their rounds.

    Args:
        a: a run (the column `run`), a commit, or a file: a CSV, or the JSON of a report.
        b: the same; ratios are B's rate to A's.
    """
    found = differences(read_rows(a), read_rows(b))
    for each in found:
        bench, what, *options = each.subject
        print(
            f"{bench}: {what} ({' '.join(options)}): {each.ratio:.3f}x, n={each.n[0]} and {each.n[1]}, "
            f"p {each.p:.3g}, adjusted {each.adjusted:.3g}: {each.verdict}"
        )
    differing = sum(each.adjusted <= LEVEL for each in found)
    print(f"{differing} of {len(found)} differ beyond their spread (false discovery rate {LEVEL:g}).")
    if any(min(each.n) < 4 for each in found):
        print("With fewer than 4 rounds on a side no rank test can tell: measure with --rounds 5 or more.")


def differences(a: Sequence[Row], b: Sequence[Row]) -> list[Difference]:
    """Of all things that both measured, in A's order; of each, the last row counts.

    Raises:
        InputError: where there is nothing to compare, or SciPy is missing.
    """
    try:
        from scipy.stats import false_discovery_control, mannwhitneyu
    except ImportError as error:
        raise InputError("bench compare needs SciPy: pip install 'twistnet[convert]'.") from error
    ours, theirs = ({row.subject: row for row in found if row.rounds} for found in (a, b))
    both = [subject for subject in ours if subject in theirs]
    if not both:
        raise InputError(
            "the two have no row of the same bench, thing and options with its rounds: nothing to compare."
        )
    p = [
        float(mannwhitneyu(ours[each].rounds, theirs[each].rounds, alternative="two-sided", method="auto").pvalue)
        for each in both
    ]
    return [
        Difference(
            subject=each,
            ratio=theirs[each].images_per_s / ours[each].images_per_s,
            n=(len(ours[each].rounds), len(theirs[each].rounds)),
            p=one,
            adjusted=float(adjusted),
        )
        for each, one, adjusted in zip(both, p, false_discovery_control(p), strict=True)
    ]
