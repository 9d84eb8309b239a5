"""One look for all figures: for a column of a paper, and for all eyes (colours are Okabe and Ito's)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", "-.", ":")
BASELINE = "#999999"  # of no other model
SPREAD = ", mean ± std"  # added to an axis with whiskers or bands
COLUMN, PAGE = 3.4, 7.0  # inches
DPI = 300
_LONG = 28  # letters of a label that leaves no room for a second one beside it
_LEGEND = 46  # letters of a label that fill a column
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # letters that an editor can select, as publishers ask for
}


def draw(path: Path, size: tuple[float, float], paint: Callable[[Figure], None]) -> list[Path]:
    """Draws a figure as PNG and PDF.

    Args:
        path: without a suffix.
        size: width and height in inches.
        paint: draws into an empty figure.

    Returns:
        The two files.
    """
    import matplotlib
    from matplotlib.figure import Figure

    written = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        for kind, options in (("png", {"dpi": DPI}), ("pdf", {"metadata": {"CreationDate": None}})):
            target = path.with_name(f"{path.name}.{kind}")
            write_atomically(target, lambda file, k=kind, o=options: figure.savefig(file, format=k, **o))  # type: ignore[misc]
            written.append(target)
    return written


def look(place: int) -> dict[str, str]:
    """Colour, marker and dashes of the model at a place in the table, the baseline apart; different for 56 of them."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


def looks(labels: Iterable[str], baseline: str | None) -> dict[str, dict[str, str]]:
    """The look of every model of a table, the same in all of its figures.

    Args:
        labels: all of the table's, in its order.
        baseline: the one that is gray; None where there is none.
    """
    found = {label: look(place) for place, label in enumerate(label for label in labels if label != baseline)}
    return found if baseline is None else {baseline: {"color": BASELINE, "marker": "*", "linestyle": "-"}, **found}


def wrapped(label: str, width: int) -> str:
    """A label in lines of at most so many letters: broken at spaces, and within longer words after punctuation."""
    words = [
        word
        for long in label.split()
        for word in ([long] if len(long) <= width else re.findall(r"[^_.,=/-]+[_.,=/-]*|[_.,=/-]+", long))
    ]
    lines = [""]
    rest = label
    for word in words:
        start = rest.index(word)
        gap, rest = rest[:start], rest[start + len(word) :]
        if lines[-1] and len(lines[-1] + gap + word) > width:
            lines.append(word)
        else:
            lines[-1] += gap + word
    return "\n".join(lines)


def with_legend(labels: Collection[str]) -> tuple[float, float]:
    """Inches of a figure in a column with a legend of these below its axes."""
    lines = [wrapped(label, _LEGEND).count("\n") + 1 for label in labels]
    columns = _legend_columns(labels)
    return (COLUMN, 2.3 + 0.15 * (sum(lines) if columns == 1 else math.ceil(len(lines) / columns)))


def legend_below(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """A legend below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    across = columns or _legend_columns(labels)
    labels = [wrapped(label, _LEGEND) for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=across, columnspacing=1.2, handlelength=2.0)


def _legend_columns(labels: Collection[str]) -> int:
    return 1 if any(len(label) > _LONG for label in labels) else 2
