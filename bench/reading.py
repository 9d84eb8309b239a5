"""Rows of results, read: all that a run, a commit or a file holds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import rows
from loaders import InputError
from loaders.errors import one_line

_RATE = "images_per_s"
# Of every file of rows, and of those with a rate.
_ALWAYS = ("date", "commit", "options", "versions")
_WITH_A_RATE = (
    *("run", "dirty", "device", "driver", "cores", "host_gib", "what", "low", "high", "n", "rounds", "ratio"),
    *("first_batch_s", "cpu_share", "memory_mib", "card_mib"),
)
_WORDS = {
    *(*_ALWAYS, "bench", "run", "dirty", "device", "driver", "what", "bound_by", "model"),
    *("start", "difference_by_seed", "weights_sha256", "runs"),
}
_LISTS = {"rounds", "killed_at_s"}  # of numbers


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
        InputError: where there are none, or a file is damaged.
    """
    path = Path(which)
    if path.suffix in (".csv", ".json"):
        found = [row for row in _file(path) if row.images_per_s]
        if not found:
            raise InputError(f"{path} has no row with images a second: name another file, or a run.")
        return found
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


class _Damaged(ValueError):
    """What is wrong with a file of rows, as it goes on after the file's name or a line's."""


def _file(path: Path) -> list[Row]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read as rows ({one_line(error.strerror or error)}): name a CSV or JSON of the bench."
        ) from error
    try:
        return _of_json(data) if path.suffix == ".json" else [_row(path.stem, each) for each in _lines(data)]
    except _Damaged as error:
        raise InputError(f"{path} cannot be read as rows: {error}.") from error


def _of_json(data: bytes) -> list[Row]:
    try:
        found = json.loads(data)["rows"]
        made = [{key: str(value) for key, value in each.items()} for each in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damaged(f"it is no JSON of a report ({one_line(error, 80)}), name one or a CSV of the bench") from error
    for number, each in enumerate(made, 1):
        lacks = next((name for name in ("bench", *_ALWAYS, *_WITH_A_RATE, _RATE) if name not in each), None)
        if lacks:
            raise _Damaged(f"row {number} has no {lacks}, write the report anew")
        if wrong := _no_number(each):
            raise _Damaged(f"row {number} {wrong}, write the report anew")
    return [_row(each["bench"], each) for each in made]


def _lines(data: bytes) -> Iterator[dict[str, str]]:
    """The rows of a CSV.

    Raises:
        _Damaged: at the first line that is not whole.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Damaged(f"line {line} holds bytes that are no text, remove the line") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1  # of those that a torn quote would run on over, the first
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _Damaged(f"line {line} is torn ({one_line(error)}), remove the line") from error
        if cells is None:
            break
        if not header:
            header = cells
            wanted = (*_ALWAYS, *(_WITH_A_RATE if _RATE in header else ()))
            lacks = next((name for name in wanted if name not in header), None)
            if lacks:
                raise _Damaged(f"line 1 has no column {lacks}, which every row of the bench has, move the file away")
        elif cells:
            if len(cells) != len(header):
                raise _Damaged(f"line {line} has {len(cells)} cells of {len(header)}, remove the line")
            row = dict(zip(header, cells, strict=True))
            if wrong := _no_number(row):
                raise _Damaged(f"line {line} {wrong}, remove the line")
            yield row
    if text and not text.endswith("\n"):
        raise _Damaged(f"line {reader.line_num} has no end, as if its writing had been cut short, remove the line")


def _no_number(row: Mapping[str, str]) -> str | None:
    """What is said of the first cell that should hold numbers and does not; an empty one was not measured."""
    for column, cell in row.items():
        for value in cell.split() if column in _LISTS else [cell] if column not in _WORDS and cell else []:
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                return f"has {value[:40]!r} as {column}, which is no number"
    return None


def _row(bench: str, columns: Mapping[str, str]) -> Row:
    options = dict(word.partition("=")[::2] for word in columns["options"].split())
    return Row(bench=bench, what=columns.get("what", ""), options=options, columns=columns)


def _runs() -> str:
    found = {row.columns.get("run", "") for path in rows.RESULTS.glob("*.csv") for row in _file(path)} - {""}
    return ", ".join(sorted(found)[-5:]) or "(none yet)"
