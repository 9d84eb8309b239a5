"""Machines with cards that are not at hand: what others have published of them, and what is assumed."""

from __future__ import annotations

from collections.abc import Sequence

from bench.planning import Load, Machine
from bench.published import CARDS, RESNET18_TO_RESNET50, Figure
from bench.reading import Row, newest
from loaders import InputError
from twistnet.arguments import did_you_mean
from twistnet.building import check_model

GRADIENT_MB = 46.0  # of an 18-layer network, in float32
MEMORY_GIB = 512.0
MOST_CARDS = 64  # of a node: more make no node, and a simulation without end
_LEAST_BATCH = 32  # of smaller ones the ratio of two models' steps is that of their overheads


def machine_of(card: str, cards: int, disk: float = 1000.0) -> Machine:
    """A node with so many of a card; all but the card is assumed.

    Raises:
        InputError: for a card that nothing is known of.
    """
    name = next((known for known in CARDS if known.lower() == card.lower()), None)
    if name is None:
        near = did_you_mean(card, CARDS)
        raise InputError(f"--card {card} is unknown{near or ': take here or one of ' + ', '.join(CARDS) + '.'}")
    return Machine(
        card=name,
        cards=cards,
        nodes=1,
        cores=float(CARDS[name].cores * cards),
        memory_gib=MEMORY_GIB,
        disk_mb_per_s=disk,
        link_gb_per_s=12.0,
        fabric_gb_per_s=CARDS[name].fabric_gb_per_s,
        network_gb_per_s=12.5,
    )


def load_of(card: str, cards: int, rows: Sequence[Row], batch_size: int, size: int, model: str = "twistnet18") -> Load:
    """A model's training on one of some cards: ResNet-18's published rate there, by the ratio of the models' steps.

    Raises:
        InputError: where nothing tells the ratio.
    """
    resnet18 = CARDS[card].resnet18(cards)
    ratio, source = _ratio(model, card, rows)
    figure = Figure(
        value=resnet18.value * ratio * (224 / size) ** 2,
        kind="projected",
        source=f"{resnet18.source} ({resnet18.kind}); {source}",
    )
    return Load(step=figure, step_core_s=0.0, augment=None, batch_size=batch_size, size=size, gradient_mb=GRADIENT_MB)


def _ratio(model: str, card: str, rows: Sequence[Row]) -> tuple[float, str]:
    """Of the model's rate to ResNet-18's, and where it is from."""
    if model == "resnet18":
        return 1.0, model
    if model == "resnet50":
        return 1 / RESNET18_TO_RESNET50, f"{model} at {1 / RESNET18_TO_RESNET50:.3f} of it (published)"
    check_model(model)
    fitting = [
        row
        for row in rows
        if row.bench == "step" and row.options.get("size") == "224" and int(row.options["batch"]) >= _LEAST_BATCH
    ]
    # Of such a card, where there are any: between a CPU and a card the ratio differs.
    of_card = [row for row in fitting if card in row.columns["device"]]
    found = [row for row in newest(of_card or fitting, "step") if row.what == f"step: {model}" and row.number("ratio")]
    if not found:
        raise InputError(
            f"step.csv has no row of {model} beside resnet18 at 224 px and batch {_LEAST_BATCH} or more: run python -m "
            f"bench step --models {model},resnet18 first."
        )
    row = found[-1]
    where = f"{row.columns['device']}, {row.options.get('precision', 'float32')}, batch {row.options['batch']}"
    kind = "measured" if of_card else "measured there, projected to a card"
    return row.number("ratio"), f"{model} at {row.number('ratio'):.3f} of it ({where}, n={row.columns['n']}: {kind})"
