"""What pretraining will take on some machine, what bounds it there, and which flags to give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.costs import Cost
from bench.options import check_positive
from bench.planning import Form, Load, Machine, Prediction, predict
from bench.published import CARDS, GUIDE, Figure
from bench.reading import Row, newest, read_rows
from loaders import InputError
from twistnet.arguments import did_you_mean

FORMS = {  # by the set of bench/results/decode.csv: flags of `twistnet convert`
    "original": "--images original",
    "500_px": "--images max_side=500",
    "400_px": "--images max_side=400",
    "raw_256_px": "--formats beton --beton raw --images max_side=256",
}
GRADIENT_MB = 46.0  # of an 18-layer network, in float32
_SAME = 1.02  # a form that is faster by less is not worth the pixels that it lacks


def plan(
    *,
    card: str = "A100",
    cards: int = 8,
    nodes: int = 1,
    cores: int | None = None,
    memory: float = 512.0,
    disk: float = 1000.0,
    network: float = 12.5,
    batch_size: int = 256,
    size: int = 224,
    epochs: tuple[int, ...] = (600, 300),
    price: float = 0.0,
    fix: bool = False,
) -> None:
    """Projects the guide's pretraining of TwistNet-18 on ImageNet, from measured rows and published figures.

    Decoding is as rows of this project measured it on one core, and assumed to be alike on that machine's;
    augmentation on the card, which no row has yet, is counted as nothing. Every result is a projection.

    Args:
        card: "RTX 3090", "A100", "H100" or "H200".
        cards: of a node.
        nodes: how many.
        cores: of a node; an assumption for the card unless given.
        memory: GiB of a node.
        disk: MB a second that a node reads where the set does not stay in its memory.
        network: GB a second between nodes.
        batch_size: of a card.
        size: side of the images in pixels.
        epochs: of the runs that are projected.
        price: of a card for an hour, in any currency.
        fix: whether to print nothing but the commands that this advises.
    """
    check_positive(cards=cards, nodes=nodes, cores=cores, memory=memory, disk=disk, network=network)
    check_positive(batch_size=batch_size, size=size, epochs=min(epochs, default=0))
    if price < 0:
        raise InputError(f"--price {price} is negative: take 0 or more.")
    machine = _machine(card, cards, nodes, cores, memory, disk, network)
    rows = read_rows()
    load = load_of(card, rows, batch_size, size)
    found = [(form, predict(machine, load, form)) for form in forms_of(rows)]
    best = advised(found)
    if not fix:
        _print(machine, load, found, best, epochs, price)
        _print_levers(machine, load, best)
        return
    threads = max(1, int(machine.cores // machine.cards))
    launched = f"torchrun --nproc_per_node={cards}" + (f" --nnodes={nodes}" if nodes > 1 else "")
    print(f"twistnet convert --data_dir DOWNLOADS --out IMAGENET {best.convert}")
    print(f"{launched} -m twistnet pretrain --data_dir IMAGENET --batch_size {batch_size} --amp --workers {threads}")


def forms_of(rows: Sequence[Row]) -> list[Form]:
    """The forms of a set that rows of decode.csv have, by the native decoder on one core.

    Raises:
        InputError: where there are none.
    """
    found = []
    for name, flags in FORMS.items():
        row = next((row for row in newest(rows, "decode", set=name, threads="1") if row.what == "native"), None)
        if row is None:
            raise InputError(
                f"decode.csv has no row of the native decoder on {name}: run python -m bench decode first."
            )
        cost = Cost(seconds=1 / row.images_per_s, core_s=row.core_s)
        kb = float(row.options["kb"])
        found.append(
            Form(name=name.replace("_", " "), kb=kb, decode=cost, convert=flags, keeps_pixels=name == "original")
        )
    return found


def load_of(card: str, rows: Sequence[Row], batch_size: int, size: int) -> Load:
    """TwistNet-18's training on a card: its published ResNet-18 rate, by the measured ratio of the two models' steps.

    Raises:
        InputError: where no rows tell the ratio.
    """
    steps = [row for row in newest(rows, "step") if row.what == "step: twistnet18"]
    if not steps:
        raise InputError("step.csv has no row of twistnet18 beside resnet18: run python -m bench step first.")
    resnet18, ratio = CARDS[card].resnet18, steps[-1].number("ratio")
    figure = Figure(
        value=resnet18.value * ratio * (224 / size) ** 2,
        kind="projected",
        source=f"{resnet18.source} ({resnet18.kind}); TwistNet-18 at {ratio:.3f} of it (measured)",
    )
    return Load(step=figure, step_core_s=0.0, augment=None, batch_size=batch_size, size=size, gradient_mb=GRADIENT_MB)


def advised(found: Sequence[tuple[Form, Prediction]]) -> Form:
    """The first form, from the original on, that none after it is worth leaving for."""
    fastest = max(prediction.images_per_s for _, prediction in found)
    return next(form for form, prediction in found if prediction.images_per_s * _SAME >= fastest)


def guide_rows(rows: Sequence[Row]) -> list[str]:
    """The guide's hardware table beside projections for it, as lines of Markdown."""
    lines = [
        "| machine | the guide, 600 and 300 epochs (published) | original images (projected) | advised (projected) |",
        "|---|---|---|---|",
    ]
    forms = forms_of(rows)
    for target in GUIDE:
        machine = _machine(target.card, target.cards, 1, None, 512.0, 1000.0, 12.5)
        load = load_of(target.card, rows, 256, 224)
        found = {form.name: predict(machine, load, form) for form in forms}
        best = advised([(form, found[form.name]) for form in forms])
        cells = [
            f"{_took(found[name].days(600))} and {_took(found[name].days(300))}, bound by {found[name].bound}"
            for name in ("original", best.name)
        ]
        lines.append(
            f"| {target.cards} x {target.card}, {machine.cores:.0f} cores (assumed) | {target.days_600:g} and "
            f"{target.days_300:g} days | {cells[0]} | {best.name}: {cells[1]} |"
        )
    return lines


def _took(days: float) -> str:
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"


def _machine(
    card: str, cards: int, nodes: int, cores: int | None, memory: float, disk: float, network: float
) -> Machine:
    if card not in CARDS:
        raise InputError(f"--card {card} is unknown{did_you_mean(card, CARDS) or ': take ' + ', '.join(CARDS) + '.'}")
    return Machine(
        card=card,
        cards=cards,
        nodes=nodes,
        cores=float(CARDS[card].cores * cards if cores is None else cores),
        memory_gib=memory,
        disk_mb_per_s=disk,
        link_gb_per_s=12.0,
        fabric_gb_per_s=CARDS[card].fabric_gb_per_s,
        network_gb_per_s=network,
    )


def _print(
    machine: Machine,
    load: Load,
    found: Sequence[tuple[Form, Prediction]],
    best: Form,
    epochs: Sequence[int],
    price: float,
) -> None:
    print(
        f"{machine.nodes} x {machine.cards} x {machine.card}, {machine.cores:.0f} cores and {machine.memory_gib:g} GiB "
        f"a node; a card's step makes {load.step.value:,.0f} img/s ({load.step.kind}: {load.step.source})."
    )
    for form, prediction in found:
        held = "stays in memory" if machine.fits(form.gb(load.images)) else f"is read at {machine.disk_mb_per_s:g} MB/s"
        runs = ", ".join(
            f"{count} epochs {_took(prediction.days(count))}"
            + (f" for {prediction.days(count) * 24 * machine.cards * machine.nodes * price:,.0f}" if price else "")
            for count in epochs
        )
        print(
            f"{'*' if form is best else ' '} {form.name}: {prediction.images_per_s:,.0f} img/s, "
            f"{prediction.epoch_s:,.0f} s an epoch, {runs}; bound by {prediction.bound}, "
            f"{prediction.outcome.waited:.0%} of the time waiting for data; "
            f"{form.gb(load.images):,.0f} GB {held} (projected)"
        )


def _print_levers(machine: Machine, load: Load, form: Form) -> None:
    """What a change of the machine would do."""
    before = predict(machine, load, form).images_per_s
    doubled = {
        "cores": dataclasses.replace(machine, cores=2 * machine.cores),
        "disk": dataclasses.replace(machine, disk_mb_per_s=2 * machine.disk_mb_per_s),
        "memory": dataclasses.replace(machine, memory_gib=2 * machine.memory_gib),
    }
    for name, larger in doubled.items():
        print(f"  twice the {name}: {predict(larger, load, form).images_per_s / before:.2f}x (projected)")
    faster = dataclasses.replace(load, step=dataclasses.replace(load.step, value=2 * load.step.value))
    print(f"  a step twice as fast: {predict(machine, faster, form).images_per_s / before:.2f}x (projected)")
