"""The guide's hardware table beside projections for it, as docs/pretrain.md has it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.cards import load_of, machine_of
from bench.forms import advised, forms_of
from bench.planning import Machine, Prediction, predict
from bench.published import GUIDE
from bench.reading import Row


def guide_rows(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| machine | the guide, 600 and 300 epochs (published) | original images (projected) | advised (projected) |",
        "|---|---|---|---|",
    ]
    forms = forms_of(rows)
    for target in GUIDE:
        machine = machine_of(target.card, target.cards)
        load = load_of(target.card, target.cards, rows, 256, 224)
        found = {form.name: predict(machine, load, form) for form in forms}
        best = advised([(form, found[form.name]) for form in forms])
        cells = [
            f"{took(found[name].days(600))} and {took(found[name].days(300))}, bound by {found[name].bound}"
            for name in ("original", best.name)
        ]
        lines.append(
            f"| {target.cards} x {target.card}, {machine.cores:.0f} cores (assumed) | {target.days_600:g} and "
            f"{target.days_300:g} days | {cells[0]} | {best.name}: {cells[1]} |"
        )
    return lines


def verdicts(machine: Machine, prediction: Prediction) -> list[str]:
    """Whether the guide's days are met, where its table has such a machine."""
    return [
        f"The guide's {epochs} epochs in {took(days)} (published) are "
        f"{'met' if prediction.days(epochs) <= days else 'missed'}: {took(prediction.days(epochs))} (projected)."
        for target in GUIDE
        if (target.card, target.cards, 1) == (machine.card, machine.cards, machine.nodes)
        for epochs, days in ((600, target.days_600), (300, target.days_300))
    ]


def took(days: float) -> str:
    """A time for people."""
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"
