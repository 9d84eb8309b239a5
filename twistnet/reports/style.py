"""One look for all figures: for a column of a paper, and for all eyes (colours are Okabe and Ito's)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
BASELINE = "#999999"
COLUMN, PAGE = 3.4, 7.0  # inches
DPI = 300
_LONG = 28  # letters of a label that leaves no room for a second one beside it
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
    """Colour, marker and dashes of the model at a place in the table; different for 32 of them."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def with_legend(labels: Collection[str]) -> tuple[float, float]:
    """Inches of a figure in a column with a legend of these below its axes."""
    return (COLUMN, 2.3 + 0.15 * math.ceil(len(labels) / _legend_columns(labels)))


def legend_below(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """A legend below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    across = columns or _legend_columns(labels)
    figure.legend(handles, labels, loc="outside lower center", ncols=across, columnspacing=1.2, handlelength=2.0)


def _legend_columns(labels: Collection[str]) -> int:
    return 1 if any(len(label) > _LONG for label in labels) else 2
