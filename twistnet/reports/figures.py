"""Accuracy as bars with every run, and against parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from twistnet.reports.style import BASELINE, COLOURS, COLUMN, legend_below, look
from twistnet.reports.tables import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS_SPREAD = 0.5  # of the distance between two bars


def bars_size(lines: Sequence[Line]) -> tuple[float, float]:
    """Inches: by the number of bars."""
    return (COLUMN, 0.6 + 0.3 * len(lines))


def bars(figure: Figure, lines: Sequence[Line]) -> None:
    """Mean test accuracy as bars, the standard deviation as a line, and each run as a dot."""
    axes = figure.subplots()
    means = [100 * line.top1.mean for line in lines]
    colours = [BASELINE if line.is_baseline else COLOURS[0] for line in lines]
    axes.barh(range(len(lines)), means, color=colours, height=0.7, alpha=0.45, linewidth=0)
    for place, (line, mean, colour) in enumerate(zip(lines, means, colours, strict=True)):
        runs = sorted(line.row.runs, key=lambda run: run.pair)
        dots = [100 * run.test_top1 for run in runs]
        # In the order of fold and seed from top to bottom, so that no dot's place is chance.
        heights = [place + _DOTS_SPREAD * ((number + 0.5) / len(dots) - 0.5) for number in range(len(dots))]
        axes.plot(dots, heights, "o", color=colour, markersize=2.2, markeredgewidth=0, label=line.row.label)
        if line.top1.std is not None:
            axes.errorbar([mean], [place], xerr=[100 * line.top1.std], color="black", capsize=2.5, linewidth=1.0)
    axes.set_yticks(range(len(lines)), [line.row.label for line in lines])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    values = [100 * run.test_top1 for line in lines for run in line.row.runs]
    ends = [100 * (line.top1.mean + side * (line.top1.std or 0)) for line in lines for side in (-1, 1)]
    low, high = min(*values, *ends), max(*values, *ends)
    # From zero the differences would be too small to see; where it does not begin is written at the axis.
    room = max(0.15 * (high - low), 0.5)
    axes.set_xlim(max(0.0, low - 2 * room), min(100.0, high + room))
    axes.set_xlabel("test top-1 (%), from " + f"{axes.get_xlim()[0]:.0f}" if axes.get_xlim()[0] else "test top-1 (%)")


def scatter_size(lines: Sequence[Line]) -> tuple[float, float]:
    """Inches: with room for the legend."""
    return (COLUMN, 2.3 + 0.15 * ((len(lines) + 1) // 2))


def against(figure: Figure, lines: Sequence[Line], cost: Callable[[Line], float], label: str) -> None:
    """Mean test accuracy and its standard deviation against a cost."""
    axes = figure.subplots()
    for place, line in enumerate(lines):
        style = look(place)
        axes.errorbar(
            [cost(line)],
            [100 * line.top1.mean],
            yerr=None if line.top1.std is None else [100 * line.top1.std],
            fmt=style["marker"],
            color=style["color"],
            markersize=5,
            elinewidth=0.8,
            capsize=2,
            label=line.row.label,
        )
    _from_zero(axes, [cost(line) for line in lines])
    axes.set_xlabel(label)
    axes.set_ylabel("test top-1 (%)")
    legend_below(figure, axes)


def _from_zero(axes: Axes, costs: Sequence[float]) -> None:
    axes.set_xlim(0, 1.1 * max(costs))
