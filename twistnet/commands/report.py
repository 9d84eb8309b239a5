"""`twistnet report`: what a sweep came to, as tables and figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from loaders import InputError
from loaders.files import write_atomically
from twistnet.counting import Counted, count
from twistnet.doctor import install_command
from twistnet.reports import confusion, figures, histories, maps, tables
from twistnet.reports.collect import Found, Run, Table, collect
from twistnet.reports.style import draw
from twistnet.reports.tables import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Painting = tuple[tuple[float, float], Callable[["Figure"], None]]


def report(run_dir: Path, *, out: Path | None = None, baseline: str | None = None, image: Path | None = None) -> None:
    """Makes tables and figures of all runs below a folder: means, spreads, and tests against a baseline.

    Args:
        run_dir: a sweep's folder, or any that holds runs of twistnet finetune.
        out: where tables and figures go; report/ in run_dir unless given.
        baseline: model, or row of the table, that others are compared with; resnet18 or the first row unless given.
        image: also draws where on this image the best TwistNet's interactions are, by direction.
    """
    if image is not None:
        maps.check_image(image)
    found = collect(run_dir)
    set_of_lines = _lines(found, baseline)
    folder = run_dir / "report" if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    sections, warnings, paintings = [], list(found.warnings), {}
    for table, lines in set_of_lines:
        matrix, said = confusion.confusion(_best(lines).row)
        warnings += said
        mistakes = confusion.most_said(matrix) if matrix else ()
        sections.append((table, lines, _best(lines).row.label, mistakes))
        paintings |= {f"{table.dataset}-{name}": how for name, how in _paintings(lines, matrix).items()}
    print("\n\n".join(_section(*section) for section in sections))
    for warning in warnings:
        print(f"[Warning] {warning}")
    _write(folder / "table.md", "\n".join(_markdown(*section) for section in sections))
    _write(folder / "table.tex", "\n".join(_latex(table, lines) for table, lines in set_of_lines))
    _write(folder / "table.csv", tables.as_csv(set_of_lines))
    print(f"Written: {folder}/table.md, table.tex, table.csv")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"[Warning] No figures are drawn, for matplotlib is not installed: {install_command('plots')}.")
        return
    if image is not None:
        shown = maps.picture(found.tables, image)
        print(f"Interactions on {image}: of {shown.run.folder}, best on validation of those with twist blocks.")
        paintings["interactions"] = (maps.maps_size(shown), partial(maps.draw_maps, shown=shown))
    for name, (size, paint) in paintings.items():
        draw(folder / name, size, paint)
    print(f"Drawn, as PNG and PDF: {', '.join(paintings)}")


def _lines(found: Found, baseline: str | None) -> list[tuple[Table, list[Line]]]:
    rows = [tables.choose_baseline(table, baseline) for table in found.tables]
    if baseline is not None and not any(rows):
        labels = ", ".join(repr(row.label) for table in found.tables for row in table.rows)
        raise InputError(f"--baseline {baseline} has no runs: name one of {labels}.")
    return [
        (table, tables.lines_of(table, row, _cost)) for table, row in zip(found.tables, rows, strict=True)
    ]


def _cost(run: Run) -> Counted | None:
    try:
        return _counted(run.model, run.num_classes, run.size)
    except InputError:  # a model of another version: its runs count all the same
        return None


@cache
def _counted(model: str, num_classes: int, size: int) -> Counted:
    return count(model, num_classes, size)


def _best(lines: list[Line]) -> Line:
    return max(lines, key=lambda line: line.top1.mean)


def _paintings(lines: list[Line], matrix: confusion.Confusion | None) -> dict[str, Painting]:
    """What there is to draw of a table: its size in inches, and what draws it."""
    rows = [line.row for line in lines]
    found: dict[str, Painting] = {"accuracy": (figures.bars_size(lines), partial(figures.bars, lines=lines))}
    size = figures.scatter_size(lines)
    parameters = partial(
        figures.against, lines=lines, cost=lambda line: line.parameters / 1e6, label="parameters (millions)"
    )
    found["parameters"] = (size, parameters)
    counted = [line for line in lines if line.flops is not None]
    if counted:
        flops = partial(
            figures.against, lines=counted, cost=lambda line: (line.flops or 0) / 1e9, label="FLOPs (billions)"
        )
        found["flops"] = (size, flops)
    courses = histories.labelled(rows)
    if courses:
        places = {row.label: place for place, row in enumerate(rows)}
        found["curves"] = (
            histories.curves_size(courses),
            partial(histories.curves, courses=courses, places=places),
        )
    gates = {row.label: courses for row in rows if (courses := histories.gates(row))}
    if gates:
        found["gates"] = (histories.gates_size(gates), partial(histories.draw_gates, rows=gates))
    if matrix:
        found["confusion"] = (confusion.matrix_size(matrix), partial(confusion.matrix, found=matrix))
    return found


def _section(table: Table, lines: list[Line], best: str, mistakes: list[str]) -> str:
    parts = [f"{table.dataset}: {table.common}", tables.as_text(lines), *tables.notes(table, lines)]
    if mistakes:
        parts += [f"Most frequent mistakes of {best}, of the true class:", *(f"  {mistake}" for mistake in mistakes)]
    return "\n".join(parts)


def _markdown(table: Table, lines: list[Line], best: str, mistakes: list[str]) -> str:
    escaped = tables.markdown_escaped
    notes = [escaped(note) for note in tables.notes(table, lines)]
    parts = [f"## {escaped(table.dataset)}", escaped(table.common), tables.as_markdown(lines), *notes]
    if mistakes:
        listed = "\n".join(f"- {escaped(mistake)}" for mistake in mistakes)
        parts += [f"Most frequent mistakes of {escaped(best)}, of the true class:", listed]
    return "\n\n".join(parts) + "\n"


def _latex(table: Table, lines: list[Line]) -> str:
    notes = [f"{table.dataset}: {table.common}", *tables.notes(table, lines)]
    comments = [f"% {note}" for note in ("needs \\usepackage{booktabs}", *notes)]
    return "\n".join((*comments, tables.as_latex(lines))) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
