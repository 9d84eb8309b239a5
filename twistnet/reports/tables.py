"""A table of results as text, Markdown, LaTeX (booktabs) and CSV, from one list of lines."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loaders import InputError
from twistnet.reporting import counted
from twistnet.reports.collect import Row, Run, Table, named
from twistnet.reports.statistics import WILCOXON_LEAST, Comparison, Pair, Summary, compare, summary

ABSENT = "-"
BASELINE = "resnet18"  # unless another is named
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What the table says of a row.

    Attributes:
        top1, top5, balanced: test accuracies from 0 to 1.
        seconds: mean of a run.
        flops: multiply-adds of one image; None where the model could not be counted.
        comparison: with the baseline; None of the baseline, and where no run shares fold and seed with one of it.
    """

    row: Row
    top1: Summary
    top5: Summary
    balanced: Summary
    seconds: float
    flops: int | None
    is_baseline: bool
    comparison: Comparison | None

    @property
    def parameters(self) -> int:
        """Of the model, as the run counted them."""
        return self.row.runs[0].parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the tables for people."""

    title: str
    text: Callable[[Line], str]
    """Plain, with ± and ABSENT."""


def by_pair(row: Row, value: Callable[[Run], float]) -> dict[Pair, float]:
    """A value of each run, by fold and seed."""
    return {run.pair: value(run) for run in row.runs}


def choose_baseline(table: Table, name: str | None) -> Row | None:
    """The row to compare with.

    Args:
        name: a label of the table, or a model that has one row; None takes resnet18, else the table's first row.

    Returns:
        None where the table has none of that name.

    Raises:
        InputError: where a model has several rows.
    """
    named = [row for row in table.rows if row.label == name] or [row for row in table.rows if row.model == name]
    if name is None:
        named = [row for row in table.rows if row.model == BASELINE][:1] or [table.rows[0]]
    if len(named) > 1:
        labels = ", ".join(repr(row.label) for row in named)
        raise InputError(f"--baseline {name} has several rows on {table.dataset}: name one of {labels}.")
    return named[0] if named else None


def lines_of(table: Table, baseline: Row | None, flops: Callable[[Run], int | None]) -> list[Line]:
    """The table's lines, the baseline first, the others in their order.

    Args:
        flops: multiply-adds of a run's model; None where it cannot be counted.
    """
    if len(table.rows) == 1:
        baseline = None  # of nothing
    others = [row for row in table.rows if row is not baseline]
    rows = [baseline, *others] if baseline is not None else others
    compared: list[Comparison | None] = [None] * len(others)
    if baseline is not None:
        top1 = [by_pair(row, lambda run: run.test_top1) for row in (*others, baseline)]
        compared = [None, *compare(top1[:-1], top1[-1], table.test_to_train)]
    found = []
    for row, comparison in zip(rows, compared, strict=True):
        found.append(
            Line(
                row=row,
                top1=summary(by_pair(row, lambda run: run.test_top1)),
                top5=summary(by_pair(row, lambda run: run.test_top5)),
                balanced=summary(by_pair(row, lambda run: run.test_balanced)),
                seconds=statistics.fmean(run.seconds for run in row.runs),
                flops=flops(row.runs[0]),
                is_baseline=row is baseline,
                comparison=comparison,
            )
        )
    return found


def columns(lines: Sequence[Line]) -> list[Column]:
    """The columns that the lines fill: comparisons only where there is one."""
    found = [
        Column(title="model", text=lambda line: line.row.label),
        Column(title="runs", text=_runs),
        Column(title="top-1 (%)", text=lambda line: spread_said(line.top1)),
        Column(title="std folds", text=lambda line: _percent(line.top1.std_folds)),
        Column(title="std seeds", text=lambda line: _percent(line.top1.std_seeds)),
        Column(title="balanced (%)", text=lambda line: spread_said(line.balanced)),
        Column(title="top-5 (%)", text=lambda line: spread_said(line.top5)),
        Column(title="params (M)", text=lambda line: _amount(line.parameters / 1e6)),
        Column(title="FLOPs (G)", text=lambda line: ABSENT if line.flops is None else _amount(line.flops / 1e9)),
        Column(title="time (s)", text=lambda line: f"{line.seconds:,.0f}"),
    ]
    if any(line.comparison for line in lines):
        found += [
            Column(title="difference", text=_difference),
            Column(title="p (t)", text=lambda line: _of(line, lambda test: _p(test.t_holm))),
            Column(title="p (Wilcoxon)", text=lambda line: _of(line, lambda test: _p(test.wilcoxon_holm))),
        ]
    return found


def notes(table: Table, lines: Sequence[Line]) -> list[str]:
    """What the columns mean, a sentence each."""
    said = [
        "Mean and standard deviation (n - 1) over all runs, of the epoch that is best on validation; std folds: of the "
        "folds' means; std seeds: within a fold, pooled; FLOPs: multiply-adds of one image; time: of a run, mean."
    ]
    baseline = next((line for line in lines if line.is_baseline), None)
    if baseline is None or not any(line.comparison for line in lines):
        return said
    said.append(f"Compared with {baseline.row.label}: {'; '.join(_tests_said(table, lines))}.")
    return said


def _tests_said(table: Table, lines: Sequence[Line]) -> list[str]:
    """How the tests were made, and of which rows they cannot be."""
    found = [(line.row.label, line.comparison) for line in lines if line.comparison]
    t = [test for _, test in found if test.t_p is not None]
    signed = [test for _, test in found if test.wilcoxon_p is not None]
    said = []
    if any(test.folds > 1 for test in t):
        said.append(
            "t: paired over folds, of which each is the mean of its seeds, corrected for overlapping training sets "
            f"(Nadeau and Bengio 2003, test / train = {table.test_to_train:.3g})"
        )
    single = [label for label, test in found if test.folds == 1 and test.t_p is not None]
    if single:
        said.append(f"tests of {named(single)}: paired over seeds on a single fold, which says nothing of other splits")
    if signed:
        said.append("Wilcoxon: signed-rank, exact, over the same means or pairs, which it takes as independent")
    few = [label for label, test in found if test.samples < 2]
    if few:
        said.append(f"no t-test of {named(few)}, for it takes two folds, or two seeds on a single one")
    same = [label for label, test in found if test.samples > 1 and test.t_p is None]
    if same:
        said.append(f"no t-test of {named(same)}, whose differences are all the same")
    few = [f"{label} ({_samples_said(test)})" for label, test in found if test.samples < WILCOXON_LEAST]
    if few:
        said.append(f"no Wilcoxon test of {named(few)}, for fewer than {WILCOXON_LEAST} never come to a p below 0.05")
    several = [f"{len(of)} {name}" for of, name in ((t, "t-tests"), (signed, "Wilcoxon tests")) if len(of) > 1]
    if several:
        said.append(f"p after Holm's correction for {' and '.join(several)}")
    return said


def _samples_said(test: Comparison) -> str:
    kind = "fold" if test.folds > 1 else "pair"
    return f"{test.samples} {kind}{'s' if test.samples > 1 else ''}"


def as_text(lines: Sequence[Line]) -> str:
    """Aligned columns, the first to the left and the others to the right."""
    titles, cells = _cells(lines)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in _placed(row, widths)
        )
        for row in (titles, ["-" * width for width in widths], *cells)
    )


def as_markdown(lines: Sequence[Line]) -> str:
    """A table of GitHub's Markdown; the best mean accuracy is bold."""
    titles, cells = _cells(lines)
    cells = [[markdown_escaped(cell) for cell in row] for row in cells]
    for row in _best(lines):
        cells[row][2] = f"**{cells[row][2]}**"
    ruler = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ruler, *cells))


def as_latex(lines: Sequence[Line]) -> str:
    r"""A tabular for \usepackage{booktabs}; the best mean accuracy is bold."""
    titles, cells = _cells(lines)
    cells = [[latex_escaped(cell) for cell in row] for row in cells]
    for row in _best(lines):
        cells[row][2] = rf"\textbf{{{cells[row][2]}}}"
    body = [" & ".join(row) + r" \\" for row in cells]
    head = " & ".join(map(latex_escaped, titles)) + r" \\"
    return "\n".join(
        (
            rf"\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}",
        )
    )


def as_csv(tables: Sequence[tuple[Table, Sequence[Line]]]) -> str:
    """All tables' lines in full precision; accuracies from 0 to 1, what is not defined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, record in enumerate(record for table, lines in tables for record in _records(table, lines)):
        if number == 0:
            writer.writerow(record)
        writer.writerow("" if value is None else value for value in record.values())
    return text.getvalue()


def _records(table: Table, lines: Sequence[Line]) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    for line in lines:
        run, test = line.row.runs[0], line.comparison
        record: dict[str, object] = {
            "dataset": table.dataset,
            "label": line.row.label,
            "model": run.model,
            "recipe": run.recipe,
            "epochs": run.epochs,
            "tune": run.tune,
            "pretrained": run.pretrained,
            "runs": len(line.row.runs),
            "folds": line.row.folds,
            "seeds": line.row.seeds,
        }
        for name in ("top1", "top5", "balanced"):
            of: Summary = getattr(line, name)
            record |= {f"{name}_{kind}": getattr(of, kind) for kind in ("mean", "std", "std_folds", "std_seeds")}
        record |= {"parameters": line.parameters, "flops": line.flops, "seconds": line.seconds}
        record["is_baseline"] = line.is_baseline
        record["compared_folds"] = test.folds if test else None
        for name in ("pairs", "difference", "t", "t_p", "t_holm", "wilcoxon_p", "wilcoxon_holm"):
            record[name] = getattr(test, name) if test else None
        records.append(record)
    return records


def latex_escaped(text: str) -> str:
    """Plain text as LaTeX writes it."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    if re.fullmatch(r"[+-][0-9.,]+|<[0-9.]+", escaped):
        return f"${escaped}$"
    return escaped.replace("±", r"$\pm$")


def markdown_escaped(text: str) -> str:
    """Plain text as Markdown writes it in a cell."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", text)


def _cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    shown = columns(lines)
    return [column.title for column in shown], [[column.text(line) for column in shown] for line in lines]


def _placed(row: Sequence[str], widths: Sequence[int]) -> enumerate[tuple[str, int]]:
    return enumerate(zip(row, widths, strict=True))


def _best(lines: Sequence[Line]) -> list[int]:
    """The places of the best mean accuracy, as it is shown; none where there is nothing to choose from."""
    means = [f"{100 * line.top1.mean:.2f}" for line in lines]
    best = max(means, key=float)
    return [place for place, mean in enumerate(means) if mean == best] if len(lines) > 1 else []


def _runs(line: Line) -> str:
    runs, grid = len(line.row.runs), line.row.folds * line.row.seeds
    return f"{line.row.folds} x {line.row.seeds}" + (f" (of them {runs})" if runs < grid else "")


def spread_said(of: Summary) -> str:
    """Mean and standard deviation in percent, the latter where there is one."""
    return f"{100 * of.mean:.2f}" + ("" if of.std is None else f" ± {100 * of.std:.2f}")


def _amount(value: float) -> str:
    """With two decimals, and more where a small one would have fewer than three digits."""
    first = math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(2, 2 - first)}f}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:.2f}"


def _difference(line: Line) -> str:
    if line.comparison is None:
        return "baseline" if line.is_baseline else ABSENT
    pairs = line.comparison.pairs
    fewer = pairs < len(line.row.runs)
    return f"{100 * line.comparison.difference:+.2f}" + (f" ({counted(pairs, 'pair')})" if fewer else "")


def _of(line: Line, text: Callable[[Comparison], str]) -> str:
    return text(line.comparison) if line.comparison else ABSENT


def _p(value: float | None) -> str:
    if value is None:
        return ABSENT
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"
