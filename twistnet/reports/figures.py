"""Accuracy as bars with every run, and against parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twistnet.reports.style import COLUMN, SPREAD, legend_below, looks, wrapped
from twistnet.reports.tables import Line, spread_said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_SPREAD = 0.5  # of the distance between two bars
_LABEL = 22  # letters beside a bar, in about a third of a column


def bars_size(lines: Sequence[Line]) -> tuple[float, float]:
    """Inches: by the number of bars, and of lines in the longest of their labels."""
    deepest = max(len(wrapped(line.row.label, _LABEL).splitlines()) for line in lines)
    return (COLUMN, 0.6 + max(0.3, 0.06 + 0.12 * deepest) * len(lines))


def looks_of(lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """How each row of a table is drawn, by its label."""
    baseline = next((line.row.label for line in lines if line.is_baseline), None)
    return looks([line.row.label for line in lines], baseline)


def bars(figure: Figure, lines: Sequence[Line]) -> None:
    """Mean test accuracy as bars from zero, the standard deviation as a line, each run as a dot, and the numbers."""
    axes = figure.subplots()
    means = [100 * line.top1.mean for line in lines]
    colours = [look["color"] for look in looks_of(lines).values()]
    axes.barh(range(len(lines)), means, color=colours, height=0.7, alpha=0.45, linewidth=0)
    _runs(axes, lines)
    for place, line in enumerate(lines):
        furthest = 100 * max(line.top1.mean + (line.top1.std or 0), *(run.test_top1 for run in line.row.runs), 0.0)
        said = spread_said(line.top1)
        axes.annotate(said, (furthest, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_xlim(0, 100)
    axes.set_xlabel(_accuracy(lines))


def spread(figure: Figure, lines: Sequence[Line]) -> None:
    """The same dots, means and standard deviations by themselves, on an axis that begins near the lowest."""
    axes = figure.subplots()
    _runs(axes, lines)
    for place, line in enumerate(lines):
        if line.top1.std is not None:  # a single run is its own mean
            axes.plot([100 * line.top1.mean], [place], "|", color="black", markersize=9, markeredgewidth=1.6)
    axes.margins(x=0.06)
    axes.set_xlabel(_accuracy(lines))
    axes.grid(axis="x", linewidth=0.4, alpha=0.4)
    axes.set_axisbelow(True)


def _runs(axes: Axes, lines: Sequence[Line]) -> None:
    """A dot for each run, a line of one standard deviation to both sides of their mean, and the rows' names."""
    styles = looks_of(lines)
    for place, line in enumerate(lines):
        dots = [100 * run.test_top1 for run in sorted(line.row.runs, key=lambda run: run.pair)]
        # In the order of fold and seed from top to bottom, so that no dot's place is chance.
        heights = [place + _DOTS_SPREAD * ((number + 0.5) / len(dots) - 0.5) for number in range(len(dots))]
        colour = styles[line.row.label]["color"]
        axes.plot(dots, heights, "o", color=colour, markersize=2.2, markeredgewidth=0, label=line.row.label)
        if line.top1.std is not None:
            std = [100 * line.top1.std]
            axes.errorbar([100 * line.top1.mean], [place], xerr=std, color="black", capsize=2.5, linewidth=1.0)
    axes.set_yticks(range(len(lines)), [wrapped(line.row.label, _LABEL) for line in lines])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.5, -0.5)


def _accuracy(lines: Sequence[Line]) -> str:
    return "test top-1 (%)" + SPREAD * any(line.top1.std is not None for line in lines)


def against(
    figure: Figure,
    lines: Sequence[Line],
    styles: Mapping[str, Mapping[str, str]],
    cost: Callable[[Line], float],
    label: str,
) -> None:
    """Mean test accuracy and its standard deviation against a cost.

    Args:
        lines: those whose cost is known.
        styles: by label, of all of the table.
        cost: of a line.
        label: of the cost's axis.
    """
    axes = figure.subplots()
    for line in lines:
        style = styles[line.row.label]
        at, mean = [cost(line)], [100 * line.top1.mean]
        axes.plot(at, mean, style["marker"], color=style["color"], markersize=5, zorder=3, label=line.row.label)
        if line.top1.std is not None:
            axes.errorbar(at, mean, yerr=[100 * line.top1.std], color=style["color"], linewidth=0.8, capsize=2)
    axes.set_xlim(0, 1.1 * max(cost(line) for line in lines))
    axes.set_xlabel(label)
    axes.set_ylabel(_accuracy(lines))
    legend_below(figure, axes)
