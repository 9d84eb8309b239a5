"""Pictures of rows: what bounds a run, peers, scaling and memory. Colours are Okabe and Ito's, for all eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench import parts
from bench.ratios import Ratio, peers
from bench.reading import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#999999"


def figures(rows: Sequence[Row]) -> dict[str, tuple[str, Callable[[Axes], None]]]:
    """What there is to draw of rows: title, what it shows in a sentence, and what draws it into axes."""
    found: dict[str, tuple[str, Callable[[Axes], None]]] = {}
    train = [row for row in rows if row.bench == "train"]
    if train:
        found["What bounds training"] = (_bound_said(train), lambda axes: _ceilings(axes, train))
    ratios = peers(rows)
    if ratios:
        found["Our native loader beside its peers"] = (
            "Images a second as a multiple of the peer's in interleaved rounds: the median, and the lowest to the "
            "highest round. Right of 1 ours is faster.",
            lambda axes: _ratios(axes, ratios),
        )
    decode = [row for row in rows if row.bench == "decode" and row.options["set"] == "original"]
    if decode:
        found["Decoding by threads"] = (
            "Random crops of the original images. Dashed: as many times the native decoder's one thread.",
            lambda axes: _scaling(axes, decode),
        )
    memory = [
        row
        for row in rows
        if row.bench == "loaders" and row.options["set"] in ("tree", "500_px_.beton") and row.number("memory_mib")
    ]
    if memory:
        found["Largest memory of a loader"] = (
            "Resident, with what is mapped of the set, and with all worker processes.",
            lambda axes: _memory(axes, memory),
        )
    return found


def _bound_said(train: Sequence[Row]) -> str:
    by_name = {row.what: row for row in train}
    whole = by_name[parts.END_TO_END]
    return (
        f"{whole.options['model']} at {whole.options['size']} px, {whole.options['batch']} a batch: end to end "
        f"{whole.images_per_s:,.1f} images a second, {whole.number('ratio'):.1%} of its rate without "
        f"data, and {whole.number('simulated'):,.1f} by simulation of the parts. "
        f"Bound by: {whole.columns['bound_by']}."
    )


def _ceilings(axes: Axes, train: Sequence[Row]) -> None:
    by_name = {row.what: row for row in train}
    bound = by_name[parts.END_TO_END].columns["bound_by"]
    # On a CPU an upload moves nothing, unless something makes it.
    none = {parts.UPLOAD} if train[0].columns["device"] == "cpu" and bound != "upload" else set()
    names = [name for name in (*parts.ALONE.values(), parts.LOADER, parts.END_TO_END) if name in {*by_name} - none]
    colours = [_colour(name, bound) for name in names]
    rows = [by_name[name] for name in names]
    _bars(axes, names, [row.images_per_s for row in rows], colours)
    lows = [(row.images_per_s - row.number("low"), row.number("high") - row.images_per_s) for row in rows]
    axes.errorbar(
        [row.images_per_s for row in rows],
        range(len(rows)),
        xerr=np.array(lows).T,
        fmt="none",
        ecolor="black",
        capsize=3,
    )
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        mark = "  bound" if name == parts.ALONE.get(bound) else ""
        _beside(axes, row.number("high"), place, f"{row.images_per_s:,.0f}{mark}", bold=bool(mark))
    axes.set_xscale("log")
    least, most = min(row.number("low") for row in rows), max(row.number("high") for row in rows)
    axes.set_xlim(least / 3, most * 6)
    axes.set_xlabel("images a second (logarithmic)")


def _colour(name: str, bound: str) -> str:
    if name == parts.ALONE.get(bound):
        return RED
    return {parts.END_TO_END: BLUE, parts.LOADER: SKY}.get(name, GREY)


def _ratios(axes: Axes, ratios: Sequence[Ratio]) -> None:
    for place, ratio in enumerate(ratios):
        axes.plot([ratio.low, ratio.high], [place, place], color=BLUE, linewidth=3, solid_capstyle="round")
        axes.plot([ratio.median], [place], "o", color=BLUE, markersize=8)
        _beside(axes, ratio.high, place, f"{ratio.median:.2f}x")
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(ratios)), [f"{ratio.peer}, {ratio.shown_set}" for ratio in ratios])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(ratio.high for ratio in ratios))
    axes.set_xlabel("times the peer's images a second")


def _scaling(axes: Axes, decode: Sequence[Row]) -> None:
    marks = {"native": (BLUE, "o"), "ffcv": (ORANGE, "s"), "dali": (GREEN, "^"), "reference": (GREY, "D")}
    for name, (colour, mark) in marks.items():
        points = sorted((int(row.options["threads"]), row) for row in decode if row.what == name)
        if points:
            threads, rates = [count for count, _ in points], [row.images_per_s for _, row in points]
            axes.plot(threads, rates, color=colour, marker=mark, label=name)
            if name == "native":
                axes.plot(threads, [rates[0] * count / threads[0] for count in threads], "--", color="black")
    axes.set_xticks(sorted({int(row.options["threads"]) for row in decode}))
    axes.set_ylim(0, None)
    axes.set_xlabel("threads")
    axes.set_ylabel("images a second")
    axes.legend(frameon=False)


def _memory(axes: Axes, rows: Sequence[Row]) -> None:
    names = [f"{row.what}, {row.options['set'].replace('_', ' ')}" for row in rows]
    ours = ("native", "ffcv", "dali", "dali+native", "reference")
    colours = [BLUE if row.what in ours else ORANGE for row in rows]
    _bars(axes, names, [row.number("memory_mib") for row in rows], colours)
    for place, row in enumerate(rows):
        _beside(axes, row.number("memory_mib"), place, f"{row.number('memory_mib'):,.0f}")
    axes.set_xlim(0, 1.2 * max(row.number("memory_mib") for row in rows))
    axes.set_xlabel("MiB (blue: ours)")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str]) -> None:
    axes.barh(range(len(values)), list(values), color=list(colours))
    axes.set_yticks(range(len(values)), list(names))
    axes.invert_yaxis()


def _beside(axes: Axes, x: float, place: int, text: str, *, bold: bool = False) -> None:
    """Text to the right of what is drawn up to x."""
    weight = "bold" if bold else "normal"
    axes.annotate(text, (x, place), xytext=(7, 0), textcoords="offset points", va="center", fontweight=weight)


def height(axes: Axes) -> float:
    """Inches: by the bars, or that of a curve."""
    lines = len(axes.get_yticklabels()) if axes.yaxis_inverted() else 12
    return 1.2 + 0.3 * lines


def plain(axes: Axes) -> None:
    """Takes away lines that say nothing."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
