"""One page of a run's rows: pictures, tables and the machine, in a file that needs no network; and the same as PNG."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path

from bench import rows as results
from bench.figures import figures, height, plain
from bench.page import page
from bench.reading import Row, read_rows
from loaders import InputError
from loaders.files import write_atomically


def report(*, run: str = "", out: Path | None = None) -> None:
    """Writes report.html, report.png and report.json of one run's rows.

    Args:
        run: the column `run` of its rows, a commit, or a file of rows; the newest run unless given.
        out: the folder; bench/results unless given.
    """
    rows = read_rows(run or newest_run())
    for path in write_report(rows, out or results.RESULTS):
        print(f"Written: {path}")
    commit = rows[0].columns["commit"]
    others = {row.bench for row in read_rows() if row.columns["commit"] == commit} - {row.bench for row in rows}
    if not run and commit and others:
        print(f"Rows of {', '.join(sorted(others))} are of other runs of this commit: --run {commit} shows all.")


def newest_run() -> str:
    """Of all rows."""
    found = max((row.columns["run"] for row in read_rows()), default="")
    if not found:
        raise InputError(f"{results.RESULTS} has no rows of a run: run python -m bench all first.")
    return found


def write_report(rows: Sequence[Row], out: Path) -> list[Path]:
    """Writes the three files, and returns them.

    Raises:
        InputError: where matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("a report's pictures need matplotlib: pip install 'twistnet[plots]'.")
    out.mkdir(parents=True, exist_ok=True)
    files = {
        out / "report.html": page(rows).encode(),
        out / "report.png": _png(rows),
        out / "report.json": as_json(rows).encode(),
    }
    for path, content in files.items():
        write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return list(files)


def as_json(rows: Sequence[Row]) -> str:
    """Rows as `bench.reading` takes them, each with the bench that made it."""
    return json.dumps({"rows": [{"bench": row.bench, **row.columns} for row in rows]}, indent=1) + "\n"


def _png(rows: Sequence[Row]) -> bytes:
    from matplotlib.figure import Figure

    drawn = figures(rows)
    figure = Figure(figsize=(10, 1), layout="constrained")
    all_axes = figure.subplots(max(1, len(drawn)), 1, squeeze=False)[:, 0]
    for axes, (title, (_, draw)) in zip(all_axes, drawn.items(), strict=False):
        draw(axes)
        axes.set_title(title, loc="left", fontweight="bold")
        plain(axes)
    heights = [height(axes) for axes in all_axes]
    figure.set_figheight(sum(heights))
    all_axes[0].get_gridspec().set_height_ratios(heights)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110, metadata={"Software": None})
    return written.getvalue()
