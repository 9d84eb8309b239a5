"""What pretraining will take on some machine, what bounds it there, and which flags to give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.cards import GRADIENT_MB, MOST_CARDS, load_of, machine_of
from bench.forms import advised, forms_of, mixed
from bench.guide import took, verdicts
from bench.here import load_here, rows_of_this_machine, this_machine
from bench.levers import gains
from bench.options import check_positive
from bench.planning import Form, Load, Machine, Prediction, predict
from bench.reading import read_rows
from loaders import InputError
from loaders.cores import usable_cores


def plan(
    *,
    card: str = "here",
    cards: int | None = None,
    nodes: int = 1,
    cores: int | None = None,
    memory: float | None = None,
    disk: float = 1000.0,
    network: float = 12.5,
    model: str = "twistnet18",
    batch_size: int | None = None,
    size: int | None = None,
    epochs: tuple[int, ...] = (600, 300),
    price: float = 0.0,
    fix: bool = False,
) -> None:
    """Projects pretraining on ImageNet, from this machine's measured rows or from published figures of other cards.

    Of other machines decoding is as rows of this project measured it on one core, and assumed to be alike on theirs;
    augmentation on the card, which no row has yet, is counted as nothing. Every result is a projection.

    Args:
        card: "here" for this machine, or "RTX 3090", "A100", "H100" or "H200".
        cards: of a node; this machine's, or 8.
        nodes: how many.
        cores: of a node; this machine's, or an assumption for the card.
        memory: GiB of a node; this machine's, or 512.
        disk: MB a second that a node reads where the set does not stay in its memory and no row tells it.
        network: GB a second between nodes.
        model: whose steps are meant.
        batch_size: of a card; that of the rows here, or 256.
        size: side of the images in pixels; that of the rows here, or 224.
        epochs: of the runs that are projected.
        price: of a card for an hour, in any currency.
        fix: whether to print nothing but the commands that this advises.
    """
    check_positive(cards=cards, nodes=nodes, cores=cores, memory=memory, disk=disk, network=network)
    check_positive(batch_size=batch_size, size=size, epochs=min(epochs, default=0))
    if cards is not None and cards > MOST_CARDS:
        raise InputError(f"--cards {cards} are no node's: take at most {MOST_CARDS}, and --nodes for more.")
    if price < 0:
        raise InputError(f"--price {price} is negative: take 0 or more.")
    rows = read_rows()
    assumed = [] if card == "here" else ["cores", "memory", "disk", "link and fabric"]
    if card == "here":
        rows = rows_of_this_machine(rows)
        machine, disk_figure = this_machine(rows, disk)
        if cards is not None and cards != machine.cards:
            raise InputError(f"--cards {cards} are not this machine's {machine.cards}: name another machine's --card.")
        forms = forms_of(rows, usable_cores())
        original = next((form for form in forms if form.keeps_pixels), forms[0])
        load = dataclasses.replace(load_here(rows, model, batch_size, size, GRADIENT_MB), read_kb=original.kb)
        assumed += ["disk"] if disk_figure.kind == "assumed" else []
    else:
        machine = machine_of(card, cards or 8, disk)
        forms = forms_of(rows)
        load = load_of(machine.card, machine.cards, rows, batch_size or 256, size or 224, model)
    given = {"cards": cards, "nodes": nodes, "cores": cores, "memory_gib": memory, "network_gb_per_s": network}
    machine = dataclasses.replace(machine, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    found = [(form, predict(machine, load, form)) for form in (*forms, *mixed(forms, machine, load))]
    best = advised(found)
    if fix:
        _print_commands(machine, load, best, model, epochs[0])
        return
    _print(machine, load, found, best, epochs, price)
    if load.size == 224:
        for line in verdicts(machine, next(prediction for form, prediction in found if form is best)):
            print(f"  {line}")
    if assumed:
        print(f"  Assumed, unless flags say otherwise: {', '.join(assumed)}.")
    for name, gain in gains(machine, load, best, rows).items():
        print(f"  {name}: {gain:.2f}x (projected)")


def _print_commands(machine: Machine, load: Load, best: Form, model: str, epochs: int) -> None:
    threads = max(1, int(machine.cores // machine.cards))
    training = (
        f"pretrain --data_dir IMAGENET --model {model} --epochs {epochs} --size {load.size} "
        f"--batch_size {load.batch_size} {'--amp ' if machine.card else ''}--workers {threads}"
    )
    launched = "twistnet"
    if machine.nodes > 1:
        launched = f"twistnet launch --target slurm --nodes {machine.nodes} --gpus {machine.cards} --"
    elif machine.cards > 1:
        launched = f"torchrun --nproc_per_node={machine.cards} -m twistnet"
    print(f"twistnet convert --data_dir DOWNLOADS --out IMAGENET {best.convert}")
    print(f"{launched} {training}")
    _warn_of_small(best, load)


def _warn_of_small(form: Form, load: Load) -> None:
    if form.least_side and form.least_side < load.size / 0.875:
        print(
            f"  {form.name}: photographs have about {form.least_side} px on their shorter side and are enlarged for "
            f"{load.size} px: what that costs in accuracy was not measured."
        )


def _print(
    machine: Machine,
    load: Load,
    found: Sequence[tuple[Form, Prediction]],
    best: Form,
    epochs: Sequence[int],
    price: float,
) -> None:
    what = f"{machine.nodes} x {machine.cards} x {machine.card}, " if machine.card else ""
    print(
        f"{what}{machine.cores:.0f} cores and {machine.memory_gib:.4g} GiB a node; steps of "
        f"{'a card' if machine.card else 'the processors'} make {load.step.value:,.0f} img/s ({load.step.kind}: "
        f"{load.step.source})."
    )
    for form, prediction in found:
        reduces = prediction.outcome.busy.get("all-reduce", 0.0)
        fits = machine.fits(form.gb(load.images))
        needed = machine.needed_gib(form.gb(load.images))
        held = (
            "stays in memory" if fits else f"read at {machine.disk_mb_per_s:,.0f} MB/s, {needed:,.0f} GiB would hold it"
        )
        runs = ", ".join(
            f"{count} epochs {took(prediction.days(count))}"
            + (
                f" at a cost of {prediction.days(count) * 24 * machine.cards * machine.nodes * price:,.0f}"
                if price
                else ""
            )
            for count in epochs
        )
        print(
            f"{'*' if form is best else ' '} {form.name}: {prediction.images_per_s:,.0f} img/s, "
            f"{prediction.epoch_s:,.0f} s an epoch, {runs}; bound by {prediction.bound}, "
            f"{prediction.outcome.waited:.0%} of the time waiting for data"
            + (f", {reduces:.0%} in all-reduce" if reduces >= 0.01 else "")
            + f"; {form.gb(load.images):,.0f} GB on disk, {held} (projected)"
        )
    _warn_of_small(best, load)
