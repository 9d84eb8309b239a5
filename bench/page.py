"""A report's page: pictures and tables of rows, in HTML that needs no network."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.figures import figures, height, plain
from bench.reading import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 10px; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; }
"""
_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "images/s": lambda row: f"{row.images_per_s:,.1f}",
    "lowest to highest": lambda row: f"{row.number('low'):,.1f} to {row.number('high'):,.1f}",
    "n": lambda row: row.columns["n"],
    "ratio": lambda row: f"{row.number('ratio'):.3f}",
    "first call": lambda row: _known(row, "first_batch_s", "{:.2f} s"),
    "cores": lambda row: _known(row, "cpu_share", "{:.0%}"),
    "memory": lambda row: _known(row, "memory_mib", "{:,.0f} MiB"),
    "of the card": lambda row: _known(row, "card_mib", "{:,.0f} MiB"),
}
_KNOWN = {
    *("run", "date", "commit", "dirty", "device", "driver", "cores", "host_gib", "what", "images_per_s", "low", "high"),
    *("n", "rounds", "ratio", "first_batch_s", "cpu_share", "memory_mib", "card_mib", "options", "versions", "bench"),
}


def _known(row: Row, column: str, form: str) -> str:
    """The value of a column; nothing where it was not measured."""
    return form.format(row.number(column)) if row.number(column) else ""


def page(rows: Sequence[Row]) -> str:
    """The report as HTML."""
    body = [f"<h1>twistnet bench, {html.escape(rows[0].columns['date'])}</h1>", f"<p>{_machine(rows)}</p>"]
    for title, (said, draw) in figures(rows).items():
        body += [f"<h2>{html.escape(title)}</h2>", f"<p>{html.escape(said)}</p>", _svg(draw)]
    body.append("<h2>All rows</h2>")
    for bench in dict.fromkeys(row.bench for row in rows):
        body += [f"<h3>{html.escape(bench)}</h3>", _table([row for row in rows if row.bench == bench])]
    body += ["<h2>Environment</h2>", _environment(rows)]
    head = f'<meta charset="utf-8"><title>twistnet bench</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _machine(rows: Sequence[Row]) -> str:
    columns = rows[0].columns
    device = {"cpu": "no card"}.get(columns["device"], columns["device"])
    commit = columns["commit"] + (" with changes" if columns["dirty"] == "yes" else "")
    said = f"{columns['cores']} cores, {columns['host_gib']} GiB, {device}; commit {commit}, run {columns['run']}."
    return html.escape(said)


def _table(rows: Sequence[Row]) -> str:
    shared = {
        key: value for key, value in rows[0].options.items() if all(row.options.get(key) == value for row in rows)
    }
    names = list(dict.fromkeys(key for row in rows for key in row.options if key not in shared))
    extra = [name for name in rows[0].columns if name not in _KNOWN and any(row.columns.get(name) for row in rows)]
    head = ["what", *names, *_COLUMNS, *extra]
    lines = ["<tr>" + "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in head) + "</tr>"]
    for row in rows:
        words = [row.what, *(row.options.get(name, "").replace("_", " ") for name in names)]
        numbers = [show(row) for show in _COLUMNS.values()] + [row.columns.get(name, "") for name in extra]
        lines.append(f"<tr>{_cells(words)}{_cells(numbers, 'n')}</tr>")
    said = ", ".join(f"{key} {value.replace('_', ' ')}" for key, value in shared.items())
    return f'<p>{html.escape(said)}</p><div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _cells(words: Iterable[str], kind: str = "") -> str:
    return "".join(f'<td class="{kind}">{html.escape(word)}</td>' for word in words)


def _environment(rows: Sequence[Row]) -> str:
    columns = rows[0].columns
    found = {
        name: columns[name] for name in ("device", "driver", "cores", "host_gib", "commit", "dirty") if columns[name]
    }
    found |= dict(word.partition("=")[::2] for word in columns["versions"].split())
    lines = [f"<tr>{_cells((name.replace('_', ' '), value))}</tr>" for name, value in found.items()]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _svg(draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text: it can be read out and searched, and needs no glyphs in the file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "twistnet", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 1), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        figure.set_figheight(height(axes))
        plain(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return re.sub(r"(?s)^.*?(?=<svg)", "", written.getvalue())
