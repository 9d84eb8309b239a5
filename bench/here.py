"""This machine as its own rows show it, for projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench import parts
from bench.costs import Cost
from bench.planning import Load, Machine
from bench.published import Figure
from bench.reading import Row, newest
from bench.training import shares_in_company
from loaders import InputError
from loaders.cores import usable_cores, usable_memory

_CACHED = 0.1  # of a set: more, and a cold read was none of the disk


def rows_of_this_machine(rows: Sequence[Row]) -> list[Row]:
    """Those that were measured on as many cores, and on this card or without one.

    Raises:
        InputError: where there are none.
    """
    names = {"cpu", _card()}
    found = [row for row in rows if row.columns["device"] in names and row.number("cores") == usable_cores()]
    if not found:
        raise InputError(
            f"no rows are of this machine ({_card() or 'no card'}, {usable_cores()} cores): run python -m bench all "
            "first, or name a --card."
        )
    return found


def this_machine(rows: Sequence[Row], disk_mb_per_s: float) -> tuple[Machine, Figure]:
    """The machine, and where its disk's rate is from: its rows, or else the one that is given."""
    disk = Figure(value=disk_mb_per_s, kind="assumed", source="--disk")
    cold = [row for row in newest(rows, "storage", set="shards") if row.what == "cold, at random"]
    if cold and cold[-1].number("cached") <= _CACHED:
        disk = Figure(value=cold[-1].number("mb_per_s"), kind="measured", source=f"storage.csv, {_run(cold[-1])}")
    machine = Machine(
        card=_card(),
        cards=max(1, torch.cuda.device_count()),
        nodes=1,
        cores=float(usable_cores()),
        memory_gib=usable_memory() / 2**30,
        disk_mb_per_s=disk.value,
        link_gb_per_s=12.0,
        fabric_gb_per_s=10.0,
        network_gb_per_s=12.5,
    )
    return machine, disk


def load_here(rows: Sequence[Row], model: str, batch_size: int | None, size: int | None, gradient_mb: float) -> Load:
    """A model's training, by the newest run of `bench train` with it.

    Args:
        rows: of this machine.
        model: its name.
        batch_size: the run's unless given.
        size: the run's unless given; another one than the run's is a projection by the area.
        gradient_mb: that cards exchange.

    Raises:
        InputError: where no row has it.
    """
    wanted = {"batch": batch_size, "size": size}
    fitting = newest(rows, "train", model=model, **{name: str(value) for name, value in wanted.items() if value})
    found = {row.what: row for row in fitting or newest(rows, "train", model=model)}
    if parts.STEP not in found:
        raise InputError(
            f"train.csv has no row of {model} on this machine: run python -m bench train --model {model} first."
        )
    step = found[parts.STEP]
    measured_at = int(step.options["size"])
    size = size or measured_at
    scale = (measured_at / size) ** 2
    costs = {name: cost_of(row) for name, row in found.items()}
    augment, upload = costs.get(parts.AUGMENT), costs.get(parts.UPLOAD)
    return Load(
        step=Figure(
            value=step.images_per_s * scale,
            kind="measured" if scale == 1 else "projected",
            source=f"train.csv, {_run(step)}, batch {step.options['batch']} at {measured_at} px",
        ),
        step_core_s=0.0 if _card() else step.core_s / scale,
        augment=augment.times(1 / scale) if augment else None,
        upload=upload.times(1 / scale) if upload else None,
        read=costs.get(parts.READ),
        batch_size=batch_size or int(step.options["batch"]),
        size=size,
        gradient_mb=gradient_mb,
        in_company=shares_in_company(costs, usable_cores()),
    )


def cost_of(row: Row) -> Cost:
    """What an image took."""
    return Cost(seconds=1 / row.images_per_s, core_s=row.core_s)


def _run(row: Row) -> str:
    return f"run {row.columns['run'] or row.columns['date']}"


def _card() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
