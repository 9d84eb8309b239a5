"""Rows of results: append-only CSV under bench/results/, each with what it was measured on."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.timing import Rate
from twistnet import environment

RESULTS = Path(__file__).parent / "results"


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
    rows = [
        {
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "commit": about["commit"],
            "device": about["card"] or "cpu",
            "cores": about["cores"],
            "what": what,
            "images_per_s": round(rate.median, 1),
            "low": round(rate.low, 1),
            "high": round(rate.high, 1),
            "n": rate.n,
            "ratio": round(rate.ratio_to(reference), 3),
            **(extra[what] if extra else {}),
            "options": " ".join(f"{key}={value}" for key, value in options.items()),
            "versions": " ".join(f"{key}={value}" for key, value in about["packages"].items()),
        }
        for what, rate in rates.items()
    ]
    return append_rows(name, rows)


def append_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Adds rows of the same columns to bench/results/<name>.csv, and returns that file."""
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    return path
