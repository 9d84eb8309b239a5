"""What pretraining will take on some machine, what bounds it there, and which flags to give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.costs import Cost
from bench.here import cost_of, load_here, rows_of_this_machine, this_machine
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
    "256_px": "--images max_side=256",
    "raw_256_px": "--formats beton --beton raw --images max_side=256",
}
GRADIENT_MB = 46.0  # of an 18-layer network, in float32
_SAME = 1.02  # a form that is faster by less is not worth the pixels that it lacks


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
    if price < 0:
        raise InputError(f"--price {price} is negative: take 0 or more.")
    rows = read_rows()
    if card == "here":
        rows = rows_of_this_machine(rows)
        machine, disk_figure = this_machine(rows, disk)
        load = load_here(rows, model, batch_size, size, GRADIENT_MB)
    else:
        machine, disk_figure = _machine(card, cards or 8, disk), None
        load = load_of(card, rows, batch_size or 256, size or 224, model)
    given = {"cards": cards, "nodes": nodes, "cores": cores, "memory_gib": memory, "network_gb_per_s": network}
    machine = dataclasses.replace(machine, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    forms = forms_of(rows)
    found = [(form, predict(machine, load, form)) for form in (*forms, *mixed(forms, machine, load))]
    best = advised(found)
    if fix:
        _print_commands(machine, load, best, model)
        return
    _print(machine, load, found, best, epochs, price)
    _print_targets(machine, next(prediction for form, prediction in found if form is best))
    if disk_figure:
        print(f"  The disk's {disk_figure.value:,.0f} MB/s are {disk_figure.kind} ({disk_figure.source}).")
    _print_levers(machine, load, best, rows)


def _print_commands(machine: Machine, load: Load, best: Form, model: str) -> None:
    threads = max(1, int(machine.cores // machine.cards))
    several = machine.cards * machine.nodes > 1
    nodes = f" --nnodes={machine.nodes}" if machine.nodes > 1 else ""
    launched = f"torchrun --nproc_per_node={machine.cards}{nodes} -m twistnet" if several else "twistnet"
    print(f"twistnet convert --data_dir DOWNLOADS --out IMAGENET {best.convert}")
    print(
        f"{launched} pretrain --data_dir IMAGENET --model {model} --size {load.size} --batch_size {load.batch_size} "
        f"{'--amp ' if machine.card else ''}--workers {threads}"
    )


def forms_of(rows: Sequence[Row]) -> list[Form]:
    """The forms of a set that rows of decode.csv have, by the native decoder on one core.

    Raises:
        InputError: where there are none.
    """
    found = []
    for name, flags in FORMS.items():
        row = next((row for row in newest(rows, "decode", set=name, threads="1") if row.what == "native"), None)
        if row is None:
            continue
        kb, shown = float(row.options["kb"]), name.replace("_", " ")
        found.append(Form(name=shown, kb=kb, decode=cost_of(row), convert=flags, keeps_pixels=name == "original"))
    if not found:
        raise InputError("decode.csv has no row of the native decoder: run python -m bench decode first.")
    return found


def mixed(forms: Sequence[Form], machine: Machine, load: Load) -> list[Form]:
    """Images of 256 px, as many of them as pixels as stay in memory, where some do and not all."""
    found = {form.name: form for form in forms}
    if not {"256 px", "raw 256 px"} <= found.keys():
        return []
    small, raw = found["256 px"], found["raw 256 px"]
    room = machine.fitting_gb() * 1e6 / load.images  # kB of an image
    share = (room - small.kb) / (raw.kb - small.kb)
    if not 0 < share < 1:
        return []
    jpegs = 1 - share
    decode = Cost(
        seconds=jpegs * small.decode.seconds + share * raw.decode.seconds,
        core_s=jpegs * small.decode.core_s + share * raw.decode.core_s,
    )
    return [
        Form(
            name=f"256 px, {share:.0%} of them raw",
            kb=room,
            decode=decode,
            convert=f"--formats beton --beton proportion --proportion {jpegs:.2f} --images max_side=256",
            keeps_pixels=False,
        )
    ]


def load_of(card: str, rows: Sequence[Row], batch_size: int, size: int, model: str = "twistnet18") -> Load:
    """A model's training on a card: ResNet-18's published rate there, by the measured ratio of the two models' steps.

    Raises:
        InputError: where no rows tell the ratio.
    """
    steps = [row for row in newest(rows, "step") if row.what == f"step: {model}"]
    if not steps:
        raise InputError(f"step.csv has no row of {model} beside resnet18: run python -m bench step first.")
    resnet18, ratio = CARDS[card].resnet18, steps[-1].number("ratio")
    figure = Figure(
        value=resnet18.value * ratio * (224 / size) ** 2,
        kind="projected",
        source=f"{resnet18.source} ({resnet18.kind}); {model} at {ratio:.3f} of it (measured)",
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
        machine = _machine(target.card, target.cards)
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


def _machine(card: str, cards: int, disk: float = 1000.0) -> Machine:
    if card not in CARDS:
        raise InputError(f"--card {card} is unknown{did_you_mean(card, CARDS) or ': take ' + ', '.join(CARDS) + '.'}")
    return Machine(
        card=card,
        cards=cards,
        nodes=1,
        cores=float(CARDS[card].cores * cards),
        memory_gib=512.0,
        disk_mb_per_s=disk,
        link_gb_per_s=12.0,
        fabric_gb_per_s=CARDS[card].fabric_gb_per_s,
        network_gb_per_s=12.5,
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
        fits = machine.fits(form.gb(load.images))
        held = "on disk, stays in memory" if fits else f"on disk, read at {machine.disk_mb_per_s:,.0f} MB/s"
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


def _print_targets(machine: Machine, prediction: Prediction) -> None:
    """Whether the guide's days are met, where its table has such a machine."""
    for target in GUIDE:
        if (target.card, target.cards, 1) == (machine.card, machine.cards, machine.nodes):
            for epochs, days in ((600, target.days_600), (300, target.days_300)):
                took = prediction.days(epochs)
                verdict = f"{'met' if took <= days else 'missed'}: {_took(took)} (projected)"
                print(f"  The guide's {epochs} epochs in {_took(days)} (published) are {verdict}.")


def _print_levers(machine: Machine, load: Load, form: Form, rows: Sequence[Row]) -> None:
    """What changes would do, of the machine and of how it is used."""
    before = predict(machine, load, form).images_per_s
    for name, changed in levers(machine, load, form, rows).items():
        print(f"  {name}: {predict(*changed).images_per_s / before:.2f}x (projected)")


def levers(machine: Machine, load: Load, form: Form, rows: Sequence[Row]) -> dict[str, tuple[Machine, Load, Form]]:
    """Changes of one thing each, by what they are."""
    quicker = dataclasses.replace(load.step, value=2 * load.step.value)
    area = (160 / load.size) ** 2
    smaller = dataclasses.replace(load.step, value=load.step.value / area)
    found = {
        "twice the disk": (dataclasses.replace(machine, disk_mb_per_s=2 * machine.disk_mb_per_s), load, form),
        "twice the memory": (dataclasses.replace(machine, memory_gib=2 * machine.memory_gib), load, form),
        "a step twice as fast": (
            machine,
            dataclasses.replace(load, step=quicker, step_core_s=load.step_core_s / 2),
            form,
        ),
        "twice the batch": (machine, dataclasses.replace(load, batch_size=2 * load.batch_size), form),
    }
    if load.size > 160:
        found["images of 160 px"] = (
            machine,
            dataclasses.replace(load, step=smaller, step_core_s=load.step_core_s * area, size=160),
            form,
        )
    if machine.card:  # steps of processors would take other numbers of threads than were measured
        found = {"twice the cores": (dataclasses.replace(machine, cores=2 * machine.cores), load, form), **found}
        found["half the threads"] = dataclasses.replace(machine, cores=machine.cores / 2), load, form
    name = form.name.replace(" ", "_")
    for row in newest(rows, "decode", set=name, threads="1"):
        if row.what not in ("native", "ffcv"):  # ffcv's pixels are another resize's
            found[f"the decoder {row.what}"] = machine, load, dataclasses.replace(form, decode=cost_of(row))
    return found
