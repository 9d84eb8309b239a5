"""What happened during training, from the runs' logs: validation accuracy, and the gates of twist blocks."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twistnet.reports.collect import Row
from twistnet.reports.style import COLOURS, COLUMN, DASHES, PAGE, SPREAD, legend_below, wrapped
from twistnet.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 3  # side by side
_TITLE = 40  # letters above a panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A value by epoch, over runs.

    Attributes:
        epochs: from 1.
        means: over the runs that have the epoch.
        stds: their standard deviations; 0 of a single run.
    """

    epochs: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]


def accuracies(row: Row) -> Course | None:
    """Validation top-1 from 0 to 1 by epoch; None where no log is left."""
    return _course((epoch["epoch"], epoch["val_top1"]) for epoch in _epochs(row))


def gates(row: Row) -> dict[str, Course]:
    """The gates, as they multiply the interactions (0 to 1), by epoch, of each twist block; empty without any."""
    values: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for epoch in _epochs(row):
        for block, gate in epoch.get("gates", {}).items():
            values[block].append((epoch["epoch"], gate))
    found = {block: _course(some) for block, some in sorted(values.items())}
    return {block: course for block, course in found.items() if course}


def _epochs(row: Row) -> list[dict[str, Any]]:
    """The last row of each epoch of each run."""
    found = []
    for run in row.runs:
        by_epoch = {each["epoch"]: each for each in RunFolder(run.folder).rows() if each.get("kind") == "epoch"}
        found += list(by_epoch.values())
    return found


def _course(values: Iterable[tuple[int, float]]) -> Course | None:
    by_epoch = defaultdict(list)
    for epoch, value in values:
        if math.isfinite(value):
            by_epoch[epoch].append(value)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    return Course(
        epochs=tuple(epochs),
        means=tuple(statistics.fmean(by_epoch[epoch]) for epoch in epochs),
        stds=tuple(statistics.stdev(some) if len(some := by_epoch[epoch]) > 1 else 0.0 for epoch in epochs),
    )


def curves(figure: Figure, courses: Mapping[str, Course], styles: Mapping[str, Mapping[str, str]]) -> None:
    """Validation accuracy over epochs: of each model the mean, and a band of one standard deviation over its runs.

    Args:
        courses: by label.
        styles: by label, as in the table's other figures.
    """
    axes = figure.subplots()
    for label, course in courses.items():
        style = styles[label]
        _band(axes, course, 100.0, label, style["color"], style["linestyle"], style["marker"])
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1 (%)" + _spread(courses.values()))
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]), top=min(100.0, axes.get_ylim()[1]))
    _epochs_axis(axes, courses.values())
    legend_below(figure, axes)


def gates_size(rows: Mapping[str, Mapping[str, Course]]) -> tuple[float, float]:
    """Inches: by the number of panels, and of lines above them."""
    lines = -(-len(rows) // _PANELS)
    deepest = max(len(wrapped(label, _TITLE).splitlines()) for label in rows)
    return (COLUMN if len(rows) == 1 else PAGE, 0.6 + (1.6 + 0.1 * deepest) * lines)


def draw_gates(figure: Figure, rows: Mapping[str, Mapping[str, Course]]) -> None:
    """The gates over epochs, a panel for each model, a line for each twist block, a band of one standard deviation."""
    across = min(len(rows), _PANELS)
    panels = figure.subplots(-(-len(rows) // across), across, sharey=True, squeeze=False).ravel()
    blocks = sorted({block for courses in rows.values() for block in courses})
    for axes, (label, courses) in zip(panels, rows.items(), strict=False):
        for block, course in courses.items():
            place = blocks.index(block)
            colour, dash = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
            _band(axes, course, 1.0, block, colour, dash, "o")
        axes.set_title(wrapped(label, _TITLE), fontsize=7)
        axes.set_xlabel("epoch")
        _epochs_axis(axes, courses.values())
    for axes in panels[::across]:
        axes.set_ylabel("gate" + _spread(course for courses in rows.values() for course in courses.values()))
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    legend_below(figure, panels[0], columns=4)


def _spread(courses: Iterable[Course]) -> str:
    return SPREAD * any(any(course.stds) for course in courses)


def _band(axes: Axes, course: Course, factor: float, label: str, colour: str, dash: str, marker: str) -> None:
    means = [factor * mean for mean in course.means]
    single = marker if len(means) == 1 else ""  # a line of one point would not be seen
    axes.plot(course.epochs, means, color=colour, linestyle=dash, marker=single, markersize=4, label=label)
    if single and any(course.stds):
        axes.errorbar(course.epochs, means, yerr=factor * course.stds[0], color=colour, linewidth=0.8, capsize=2)
    elif any(course.stds):
        low, high = (
            [factor * (mean + side * std) for mean, std in zip(course.means, course.stds, strict=True)]
            for side in (-1, 1)
        )
        axes.fill_between(course.epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _epochs_axis(axes: Axes, courses: Iterable[Course]) -> None:
    from matplotlib.ticker import MaxNLocator

    spans = [course.epochs for course in courses]
    last = max(epochs[-1] for epochs in spans)
    # Where a single epoch has a marker, it would be cut by the axis.
    first = 1 - 0.04 * (last - 1) * any(len(epochs) == 1 for epochs in spans)
    axes.set_xlim((0.5, 1.5) if last == 1 else (first, last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def labelled(rows: Sequence[Row]) -> dict[str, Course]:
    """Validation accuracy by label, of the rows whose logs are there."""
    found = {row.label: accuracies(row) for row in rows}
    return {label: course for label, course in found.items() if course}
