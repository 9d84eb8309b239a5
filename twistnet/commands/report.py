"""`twistnet report`: what a sweep came to, as tables and figures."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders import InputError
from loaders.files import write_atomically
from twistnet.counting import cost
from twistnet.doctor import install_command
from twistnet.reports import confusion, figures, histories, maps, tables
from twistnet.reports.collect import Found, Run, Table, collect
from twistnet.reports.style import draw, with_legend
from twistnet.reports.tables import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Painting = tuple[tuple[float, float], Callable[["Figure"], None]]
_MISTAKES = "Most frequent mistakes, as shares of the true class and counts over all runs, of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What is said and drawn of one data set; `best` is the label of the row that the matrix is of."""

    table: Table
    lines: list[Line]
    best: str
    matrix: confusion.Confusion | None
    warnings: list[str]

    @property
    def mistakes(self) -> list[str]:
        """The most frequent ones of the best row, a line each."""
        return confusion.most_said(self.matrix) if self.matrix else []


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
    sections = _sections(found, baseline)
    shown = None if image is None else maps.picture(found.tables, image)
    folder = run_dir / "report" if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    print("\n\n".join(map(_text, sections)))
    for warning in (*found.warnings, *(warning for section in sections for warning in section.warnings)):
        print(f"[Warning] {warning}")
    _write(folder / "table.md", "\n".join(map(_markdown, sections)))
    _write(folder / "table.tex", "\n".join(map(_latex, sections)))
    _write(folder / "table.csv", tables.as_csv([(section.table, section.lines) for section in sections]))
    print(f"Written: {folder}/table.md, table.tex, table.csv")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"[Warning] No figures are drawn, for matplotlib is not installed: {install_command('plots')}.")
        return
    paintings = {
        f"{re.sub(r'[^0-9A-Za-z_-]', '_', section.table.dataset)}-{name}": how
        for section in sections
        for name, how in _paintings(section).items()
    }
    if shown is not None:
        print(f"Interactions on {image}: of {shown.run.folder}, best on validation of those with twist blocks.")
        paintings["interactions"] = (maps.maps_size(shown), partial(maps.draw_maps, shown=shown))
    for name, (size, paint) in paintings.items():
        draw(folder / name, size, paint)
    print(f"Drawn, as PNG and PDF: {', '.join(paintings)}")


def _sections(found: Found, baseline: str | None) -> list[Section]:
    rows = [tables.choose_baseline(table, baseline) for table in found.tables]
    if baseline is not None and not any(rows):
        labels = ", ".join(repr(row.label) for table in found.tables for row in table.rows)
        raise InputError(f"--baseline {baseline} has no runs: name one of {labels}.")
    sections = []
    for table, row in zip(found.tables, rows, strict=True):
        lines = tables.lines_of(table, row, _flops)
        sections.append(Section(table=table, lines=lines, **_best_matrix(lines)))
    return sections


def _best_matrix(lines: list[Line]) -> dict[str, Any]:
    """The confusion matrix of the best row that has one, with its label and what is to know of it."""
    warnings: list[str] = []
    for line in sorted(lines, key=lambda line: -line.top1.mean):
        matrix, said = confusion.confusion(line.row)
        warnings += said
        if matrix is not None:
            return {"best": line.row.label, "matrix": matrix, "warnings": warnings}
    return {"best": "", "matrix": None, "warnings": warnings}


def _flops(run: Run) -> int | None:
    try:
        return _counted(run.model, run.size, run.num_classes)
    except InputError:  # a model of another version: its runs count all the same
        return None


@cache
def _counted(model: str, size: int, num_classes: int) -> int:
    return cost(model, size=size, num_classes=num_classes).multiply_adds


def _paintings(section: Section) -> dict[str, Painting]:
    """What there is to draw of a data set: its size in inches, and what draws it."""
    lines, matrix = section.lines, section.matrix
    rows = [line.row for line in lines]
    styles = figures.looks_of(lines)
    size = figures.bars_size(lines)
    found: dict[str, Painting] = {
        "accuracy": (size, partial(figures.bars, lines=lines)),
        "runs": (size, partial(figures.spread, lines=lines)),
    }
    size = with_legend([row.label for row in rows])
    parameters = partial(
        figures.against,
        lines=lines,
        styles=styles,
        cost=lambda line: line.parameters / 1e6,
        label="parameters (millions)",
    )
    found["parameters"] = (size, parameters)
    counted = [line for line in lines if line.flops is not None]
    if counted:
        flops = partial(
            figures.against,
            lines=counted,
            styles=styles,
            cost=lambda line: (line.flops or 0) / 1e9,
            label="FLOPs (billions)",
        )
        found["flops"] = (size, flops)
    courses = histories.labelled(rows)
    if courses:
        found["curves"] = (with_legend(courses), partial(histories.curves, courses=courses, styles=styles))
    gates = {row.label: courses for row in rows if (courses := histories.gates(row))}
    if gates:
        found["gates"] = (histories.gates_size(gates), partial(histories.draw_gates, rows=gates))
    if matrix:
        paint = partial(confusion.matrix, found=matrix, label=section.best)
        found["confusion"] = (confusion.matrix_size(matrix), paint)
    return found


def _text(section: Section) -> str:
    table, lines = section.table, section.lines
    parts = [f"{table.dataset}: {table.common}", tables.as_text(lines), *tables.notes(table, lines)]
    if section.mistakes:
        parts += [f"{_MISTAKES} {section.best}:", *(f"  {mistake}" for mistake in section.mistakes)]
    return "\n".join(parts)


def _markdown(section: Section) -> str:
    escaped = tables.markdown_escaped
    table, lines = section.table, section.lines
    notes = [escaped(note) for note in tables.notes(table, lines)]
    parts = [f"## {escaped(table.dataset)}", escaped(table.common), tables.as_markdown(lines), *notes]
    if section.mistakes:
        parts.append(f"{_MISTAKES} {escaped(section.best)}:")
        parts.append("\n".join(f"- {escaped(mistake)}" for mistake in section.mistakes))
    return "\n\n".join(parts) + "\n"


def _latex(section: Section) -> str:
    notes = [f"{section.table.dataset}: {section.table.common}", *tables.notes(section.table, section.lines)]
    comments = [f"% {note}" for note in ("needs \\usepackage{booktabs}", *notes)]
    return "\n".join((*comments, tables.as_latex(section.lines))) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
