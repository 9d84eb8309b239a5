"""Whether two sets of rows differ by more than their rounds do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.reading import Row, read_rows
from loaders import InputError

LEVEL = 0.01  # of one comparison; so many of a hundred that are the same are called different by chance
LEAST_ROUNDS = 5  # on both sides: all of one above all of the other has p 0.008; with 4 it has 0.029


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two measurements of the same thing.

    Attributes:
        subject: bench, thing and options.
        against: the thing that each round was divided by, which was measured beside it; empty for rates as they are.
        ratio: B to A, of the medians of what is compared.
        n: rounds of A and of B.
        p: that two such samples come from one distribution, by the Mann-Whitney rank test, two-sided.
    """

    subject: tuple[str, ...]
    against: str
    ratio: float
    n: tuple[int, int]
    p: float

    @property
    def verdict(self) -> str:
        """For people to read."""
        if self.p > LEVEL:
            return "no difference beyond the spread"
        return "B is faster" if self.ratio > 1 else "B is slower"


def compare(a: str, b: str) -> None:
    """Compares rows of the same things in two runs, commits, files or folders, by a rank test over their rounds.

    A thing that was measured beside a reference is compared by its rounds as multiples of the reference's, so that a
    machine that is faster on another day is no difference; the reference itself is compared by its rate.

    Args:
        a: a run (the column `run`), a commit, a folder of rows, or a file: a CSV, or the JSON of a report.
        b: the same; ratios are B's to A's.
    """
    ours, theirs = read_rows(a), read_rows(b)
    found = differences(ours, theirs)
    for each in found:
        bench, what, *options = each.subject
        beside = f" beside {each.against}" if each.against else ""
        print(
            f"{bench}: {what}{beside} ({' '.join(options)}): {each.ratio:.3f}x, n={each.n[0]} and {each.n[1]}, "
            f"p {each.p:.3g}: {each.verdict}"
        )
    differing = sum(each.p <= LEVEL for each in found)
    print(
        f"{differing} of {len(found)} differ beyond their spread (p of {LEVEL:g} or less; of {len(found)} that are the "
        f"same, {len(found) * LEVEL:.1f} would by chance)."
    )
    for name, some, others in (("A", ours, theirs), ("B", theirs, ours)):
        alone = {row.subject for row in some} - {row.subject for row in others}
        if alone:
            print(f"{len(alone)} things are in {name} alone, as {' '.join(min(alone))}.")
    few = sum(min(each.n) < LEAST_ROUNDS for each in found)
    if few:
        print(f"{few} have fewer than {LEAST_ROUNDS} rounds on a side and cannot differ by this test: raise --rounds.")


def differences(a: Sequence[Row], b: Sequence[Row]) -> list[Difference]:
    """Of all things that both measured, in A's order; of each, the last row counts.

    Raises:
        InputError: where there is nothing to compare, or SciPy is missing.
    """
    try:
        from scipy.stats import mannwhitneyu
    except ImportError as error:
        raise InputError("bench compare needs SciPy: pip install 'twistnet[convert]'.") from error
    ours, theirs = _by_subject(a), _by_subject(b)
    both = [subject for subject in ours if subject in theirs]
    if not both:
        raise InputError(
            "the two have no row of the same bench, thing and options with its rounds: nothing to compare."
        )
    found = []
    for subject in both:
        samples, against = _samples(ours[subject], theirs[subject])
        found.append(
            Difference(
                subject=subject,
                against=against,
                ratio=statistics.median(samples[1]) / statistics.median(samples[0]),
                n=(len(samples[0]), len(samples[1])),
                p=float(mannwhitneyu(*samples, alternative="two-sided", method="auto").pvalue),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Measured:
    """A row, and the one that it was measured beside, which may be itself."""

    row: Row
    reference: Row | None

    @property
    def beside(self) -> str:
        if self.reference is None or self.reference is self.row:
            return ""
        return self.reference.what if len(self.reference.rounds) == len(self.row.rounds) else ""


def _by_subject(rows: Sequence[Row]) -> Mapping[tuple[str, ...], _Measured]:
    found: dict[tuple[str, ...], _Measured] = {}
    waiting: list[Row] = []
    # Rows that were measured together stand together, the reference last: the one with the ratio 1 to itself.
    for row in rows:
        if waiting and _together(row) != _together(waiting[0]):
            found |= {each.subject: _Measured(each, None) for each in waiting}
            waiting = []
        if not row.rounds:
            continue
        waiting.append(row)
        if row.number("ratio") == 1.0:
            found |= {each.subject: _Measured(each, row) for each in waiting}
            waiting = []
    return found | {each.subject: _Measured(each, None) for each in waiting}


def _together(row: Row) -> tuple[str, str, str]:
    return row.bench, row.columns.get("run") or "", row.columns.get("options") or ""


def _samples(ours: _Measured, theirs: _Measured) -> tuple[tuple[list[float], list[float]], str]:
    """What is compared, of both sides, and what it is relative to."""
    if not ours.beside or ours.beside != theirs.beside:
        return (ours.row.rounds, theirs.row.rounds), ""
    first, second = (
        [one / other for one, other in zip(each.row.rounds, each.reference.rounds, strict=True)]
        for each in (ours, theirs)
        if each.reference is not None
    )
    return (first, second), ours.beside
