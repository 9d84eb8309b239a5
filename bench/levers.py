"""What changes of a machine, or of how it is used, would do to a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.here import cost_of
from bench.planning import Form, Load, Machine, predict
from bench.reading import Row, newest

NOTHING = 0.01  # a change of less is none


def gains(machine: Machine, load: Load, form: Form, rows: Sequence[Row]) -> dict[str, float]:
    """How many times the images a second each change makes, the largest gain first, those that do nothing left out."""
    before = predict(machine, load, form).images_per_s
    found = {
        name: predict(*changed).images_per_s / before for name, changed in changes(machine, load, form, rows).items()
    }
    some = {name: gain for name, gain in found.items() if abs(gain - 1) >= NOTHING}
    return dict(sorted(some.items(), key=lambda each: -each[1]))


def changes(machine: Machine, load: Load, form: Form, rows: Sequence[Row]) -> dict[str, tuple[Machine, Load, Form]]:
    """Of one thing each, by what they are."""
    quicker = replace(load.step, value=2 * load.step.value)
    found = {
        "twice the disk": (replace(machine, disk_mb_per_s=2 * machine.disk_mb_per_s), load, form),
        "twice the memory": (replace(machine, memory_gib=2 * machine.memory_gib), load, form),
        "a step twice as fast": (machine, replace(load, step=quicker, step_core_s=load.step_core_s / 2), form),
        "twice the batch": (machine, replace(load, batch_size=2 * load.batch_size), form),
    }
    if load.size > 160:
        found["images of 160 px"] = machine, _of_size(load, 160), form
    if machine.nodes > 1:
        found["twice the network"] = replace(machine, network_gb_per_s=2 * machine.network_gb_per_s), load, form
    if machine.cards * machine.nodes > 1:
        halved = replace(load, gradient_mb=load.gradient_mb / 2)
        found["gradients in bfloat16 (--set compress_gradients=true)"] = machine, halved, form
    if machine.card:  # steps of processors would take other numbers of threads than were measured
        found["twice the cores"] = replace(machine, cores=2 * machine.cores), load, form
        found["half the threads"] = replace(machine, cores=machine.cores / 2), load, form
    for row in newest(rows, "decode", set=form.name.replace(" ", "_"), threads=str(form.threads)):
        if row.what not in ("native", "ffcv"):  # ffcv's pixels are another resize's
            found[f"the decoder {row.what}"] = machine, load, replace(form, decode=cost_of(row))
    return found


def _of_size(load: Load, size: int) -> Load:
    area = (size / load.size) ** 2
    return replace(
        load,
        step=replace(load.step, value=load.step.value / area),
        step_core_s=load.step_core_s * area,
        augment=load.augment.times(area) if load.augment else None,
        upload=load.upload.times(area) if load.upload else None,
        size=size,
    )
