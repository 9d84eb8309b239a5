"""Rows of results: append-only CSV under bench/results/, each with what it was measured on."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.timing import Rate
from loaders import InputError
from loaders.cores import usable_cores
from loaders.errors import one_line
from loaders.files import existing_parent
from twistnet import environment

COMMITTED = Path(__file__).parent / "results"
RESULTS = Path(os.environ.get("TWISTNET_BENCH_RESULTS") or COMMITTED)  # for trials, elsewhere
# All rows that one process adds are one run, and those of the processes that `bench all` starts.
RUN = os.environ.get("TWISTNET_BENCH_RUN") or datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S")


def check_results(name: str) -> None:
    """Asks before anything is measured whether rows can be added to bench/results/<name>.csv.

    Raises:
        InputError: where they cannot.
    """
    folder = existing_parent(RESULTS)
    if not folder.is_dir():
        raise InputError(f"rows go to a folder, and {folder} is a file: set TWISTNET_BENCH_RESULTS to another path.")
    path = RESULTS / f"{name}.csv"
    for place in (folder, *([path] if path.exists() else [])):
        if not os.access(place, os.W_OK):
            raise InputError(f"{place} may not be written to: change its permissions, or set TWISTNET_BENCH_RESULTS.")
    if path.exists() and not _is_whole(path):
        raise InputError(f"the last line of {path} has no end, as if its writing had been cut short: remove the line.")


def append_rates(
    name: str,
    rates: Mapping[str, Rate],
    options: Mapping[str, Any],
    device: torch.device,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Adds one row for each thing that was measured together; `ratio` is to the last of them, the reference.

    Args:
        name: of the CSV file, without its ending.
        rates: as `bench.timing.measure` returns them.
        options: what else was chosen: batch, size, precision, ...
        device: what was measured on.
        extra: further columns of each row, the same for all.
    """
    about = environment.describe(device)
    reference = list(rates.values())[-1]
    return append_rows(
        name,
        [
            columns_before(about)
            | {
                "what": what,
                "images_per_s": round(rate.median, 1),
                "low": round(rate.low, 1),
                "high": round(rate.high, 1),
                "n": rate.n,
                "rounds": " ".join(f"{each:.1f}" for each in rate.each),
                "ratio": round(rate.ratio_to(reference), 3),
                # Empty where it was not measured: no call takes no time at all, and no process no memory.
                "first_batch_s": round(rate.first_s, 6) or "",
                "cpu_share": round(rate.cpu_share, 3) if rate.cpu_share else "",
                "memory_mib": round(rate.memory_bytes / 2**20) or "",
                "card_mib": round(rate.card_bytes / 2**20) if rate.card_bytes else "",
                **(extra[what] if extra else {}),
            }
            | columns_after(about, options)
            for what, rate in rates.items()
        ],
    )


def columns_before(about: Mapping[str, Any]) -> dict[str, Any]:
    """When, of which code and on what a row was measured: its first columns.

    Args:
        about: as `twistnet.environment.describe` returns it.
    """
    commit = about["commit"] or ""
    return {
        "run": RUN,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.removesuffix("-dirty"),
        "dirty": "yes" if commit.endswith("-dirty") else "no",
        "device": about["card"] or "cpu",
        "driver": about["driver"] or "",
        "cores": usable_cores(),
        "host_gib": about["memory_gib"],
    }


def columns_after(about: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    """What was chosen and what is installed: the last columns of a row."""
    return {"options": _joined(options), "versions": _joined(about["packages"])}


def append_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Adds rows of the same columns to bench/results/<name>.csv, and returns that file.

    Rows that cannot be added are printed, since what was measured must not be lost, and the file stays as it was.

    Raises:
        InputError: where the file has other columns, or cannot be written.
    """
    path = RESULTS / f"{name}.csv"
    columns = list(rows[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        if size:
            _check_columns(path, columns)
        _append(path, _as_csv(columns, rows, header=not size), size)
    except (InputError, OSError) as error:
        print(f"Not written to {path}:\n{_as_csv(columns, rows, header=True)}", end="")
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be written ({one_line(error.strerror or error)}), its rows are printed: free space, or set "
            "TWISTNET_BENCH_RESULTS to another folder."
        ) from error
    return path


def added(path: Path) -> str:
    """What is said of rows that have been added to a file: those of this repository belong to it."""
    return f"Rows added to {path}{': commit them' if path.parent == COMMITTED else ''}."


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not _is_whole(path):
        raise InputError(f"the last line of {path} has no end, as if its writing had been cut short: remove the line.")
    with path.open(newline="", errors="replace") as file:
        there = next(csv.reader(file), [])
    if there != list(columns):
        other = next((one for one in [*there, *columns] if (one in there) != (one in columns)), "their order")
        raise InputError(f"{path} has other columns than this version writes ({other}): move it away.")


def _is_whole(path: Path) -> bool:
    """Whether the last line has its end, without which the next row would go on in it."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _append(path: Path, text: str, size: int) -> None:
    """All of the text at the end of a file of that size, or nothing of it."""
    try:
        with path.open("ab", buffering=0) as file:
            left = memoryview(text.encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
    except OSError:
        if path.exists():
            os.truncate(path, size)
            if not size:
                path.unlink()
        raise


def _joined(values: Mapping[str, Any]) -> str:
    """Words without spaces, "key=value" each."""
    return " ".join(f"{key}={str(value).replace(' ', '_')}" for key, value in values.items())
