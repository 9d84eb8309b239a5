"""Rows of results: append-only CSV under bench/results/, each with what it was measured on."""

from __future__ import annotations

import csv
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.timing import Rate
from loaders import InputError
from loaders.cores import usable_cores
from twistnet import environment

RESULTS = Path(os.environ.get("TWISTNET_BENCH_RESULTS", Path(__file__).parent / "results"))  # for trials, elsewhere
# All rows that one process adds are one run, and those of the processes that `bench all` starts.
RUN = os.environ.get("TWISTNET_BENCH_RUN") or datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S")


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
                "first_batch_s": round(rate.first_s, 3),
                "cpu_share": round(rate.cpu_share, 3),
                "memory_mib": round(rate.memory_bytes / 2**20),
                "card_mib": round(rate.card_bytes / 2**20),
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

    Raises:
        InputError: where the file has other columns.
    """
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    is_new = not path.exists()
    if not is_new:
        with path.open(newline="") as file:
            there = next(csv.reader(file), [])
        if there != columns:
            other = next((one for one in [*there, *columns] if (one in there) != (one in columns)), "their order")
            raise InputError(f"{path} has other columns than this version writes ({other}): move it away.")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    return path


def _joined(values: Mapping[str, Any]) -> str:
    """Words without spaces, "key=value" each."""
    return " ".join(f"{key}={str(value).replace(' ', '_')}" for key, value in values.items())
