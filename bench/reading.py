"""Rows of results, read: all that a run, a commit or a file holds."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import rows
from loaders import InputError
from loaders.errors import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rate as it was measured.

    Attributes:
        bench: which one measured it.
        what: the thing measured.
        options: what was chosen, by name.
        columns: all columns, as they are written.
    """

    bench: str
    what: str
    options: Mapping[str, str]
    columns: Mapping[str, str]

    def number(self, column: str) -> float:
        """The value of a column; 0 where it is empty, as of rows from before it was measured."""
        return float(self.columns.get(column) or 0)

    @property
    def images_per_s(self) -> float:
        """The median."""
        return self.number("images_per_s")

    @property
    def rounds(self) -> list[float]:
        """Images a second of every round."""
        return [float(each) for each in self.columns.get("rounds", "").split()]

    @property
    def core_s(self) -> float:
        """Seconds of a core that an image takes."""
        return self.number("cpu_share") * self.number("cores") / self.images_per_s

    @property
    def subject(self) -> tuple[str, ...]:
        """What it is a measurement of: the same for rows that may be compared."""
        return (self.bench, self.what, *(f"{key}={value}" for key, value in self.options.items()))


def read_rows(which: str = "") -> list[Row]:
    """Rows with a rate, in the order in which they were added.

    Args:
        which: a run, a commit or the beginning of one, a folder of rows, or a file of them: CSV, or the JSON of a
            report; all rows of bench/results unless given.

    Raises:
        InputError: where there are none.
    """
    path = Path(which)
    if path.suffix in (".csv", ".json"):
        return [row for row in _file(path) if row.images_per_s]
    is_folder = bool(which) and path.is_dir()
    folder = path if is_folder else rows.RESULTS
    found = [row for path in sorted(folder.glob("*.csv")) for row in _file(path) if row.images_per_s]
    if which and not is_folder:
        found = [row for row in found if row.columns["run"] == which or row.columns["commit"].startswith(which)]
    if not found:
        raise InputError(f"{folder} has no rows of {which or 'any run'}: give one of the runs {_runs()}, or a file.")
    return found


def newest(found: Iterable[Row], bench: str, **options: str) -> list[Row]:
    """Of the rows of a bench with such options, those of the newest run, in order."""
    fitting = [
        row
        for row in found
        if row.bench == bench and all(row.options.get(name) == value for name, value in options.items())
    ]
    made = [(row.columns["date"], row.columns["run"]) for row in fitting]
    latest = max(made, default=None)
    return [row for row, when in zip(fitting, made, strict=True) if when == latest]


def _file(path: Path) -> list[Row]:
    try:
        text = path.read_text()
        if path.suffix == ".json":
            return [_row(each["bench"], each) for each in json.loads(text)["rows"]]
        return [_row(path.stem, each) for each in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as rows ({one_line(error)}): name a CSV or JSON of the bench."
        ) from error


def _row(bench: str, columns: Mapping[str, str]) -> Row:
    options = dict(word.partition("=")[::2] for word in columns["options"].split())
    return Row(bench=bench, what=columns.get("what", ""), options=options, columns=columns)


def _runs() -> str:
    found = {row.columns["run"] for path in rows.RESULTS.glob("*.csv") for row in _file(path)} - {""}
    return ", ".join(sorted(found)[-5:]) or "(none yet)"
