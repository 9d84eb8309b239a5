"""Which classes are taken for which: the confusion matrix of a model, and its largest entries as text."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loaders import InputError
from loaders.errors import one_line
from twistnet import predictions
from twistnet.reports.collect import Row, named
from twistnet.reports.style import COLUMN, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = 44  # letters above the smallest matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Of a row's runs together.

    Attributes:
        classes: C names.
        counts: (C, C): how often a test image of the row's class was given the column's.
    """

    classes: tuple[str, ...]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """(C, C): the counts by those of the true class; 0 where a class has no test image."""
        return np.asarray(self.counts / self.counts.sum(1, keepdims=True).clip(1))

    def most(self, number: int) -> list[tuple[str, str, float, int]]:
        """The most frequent mistakes: true class, predicted class, share of the true class, and how many."""
        wrong = self.shares * (1 - np.eye(len(self.classes)))
        order = np.argsort(-wrong, axis=None, kind="stable")[:number]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [
            (self.classes[true], self.classes[taken], float(wrong[true, taken]), int(self.counts[true, taken]))
            for true, taken in pairs
            if wrong[true, taken] > 0
        ]


def confusion(row: Row) -> tuple[Confusion | None, list[str]]:
    """Adds up the predictions of a row's runs.

    Returns:
        The matrix, or None where no run has predictions that can be read, and a sentence where some have not.
    """
    total: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    reasons = []
    for run in row.runs:
        try:
            found, counts = _read(run.folder / predictions.NAME)
        except InputError as error:
            reasons.append(str(error))
            continue
        if total is not None and found != classes:
            reasons.append(f"{run.folder / predictions.NAME} has other classes than the runs before it")
            continue
        classes, total = found, counts if total is None else total + counts
    warnings = []
    if reasons:
        runs = "1 run" if len(reasons) == 1 else f"{len(reasons)} runs"
        warnings = [f"The confusion matrix of {row.label} is without {runs}: {named(reasons, '; ')}."]
    return (None if total is None else Confusion(classes=classes, counts=total)), warnings


def _read(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            labels, predicted, names = file["labels"], file["predicted"], file["classes"]
        counts = np.zeros((len(names), len(names)), np.int64)
        if min(labels.min(), predicted.min()) < 0:
            raise ValueError("a class below 0")
        np.add.at(counts, (labels, predicted), 1)
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile, EOFError) as error:
        reason = one_line(getattr(error, "strerror", None) or error, 120)
        raise InputError(f"{path} cannot be read ({reason})") from error
    return tuple(map(str, names)), counts


def matrix_size(found: Confusion) -> tuple[float, float]:
    """Inches: so that every class's name can be read."""
    side = max(COLUMN, 1.2 + 0.125 * len(found.classes))
    return (side, (0.86 if side == COLUMN else 0.93) * side)


def matrix(figure: Figure, found: Confusion, label: str) -> None:
    """Rows are true classes and sum to 100 %; shares above 0 get darker with their root, so that rare mistakes show.

    Args:
        figure: empty.
        found: of a row's runs.
        label: the row's, as title.
    """
    from matplotlib.colors import PowerNorm

    axes = figure.subplots()
    shown = 100 * found.shares
    image = axes.imshow(
        shown, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100), interpolation="nearest", aspect="auto"
    )
    size = 6.0 if len(found.classes) > 20 else 7.0
    places = range(len(found.classes))
    axes.set_xticks(places, found.classes, rotation=90, fontsize=size)
    axes.set_yticks(places, found.classes, fontsize=size)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(True)
    axes.set_title(wrapped(label, _TITLE), fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(found.classes) <= 12:
        _numbers(figure, shown)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=(0, 5, 20, 50, 100))
    bar.set_label("% of the true class")
    bar.outline.set_linewidth(0.6)


def _numbers(figure: Figure, shown: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(shown):
        if value >= 0.5:
            colour = "white" if value > 45 else "black"
            figure.axes[0].text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)


def most_said(found: Confusion, number: int = 10) -> list[str]:
    """The most frequent mistakes, a line each."""
    return [f"{true} taken for {taken}: {share:.1%} ({times})" for true, taken, share, times in found.most(number)]
