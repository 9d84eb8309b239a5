"""What a run will take on some machine: costs of its stages, put together by `bench.simulation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.costs import Cost, Costs
from bench.published import IMAGENET_TRAIN, IMAGENET_VAL, Figure
from bench.simulation import Batches, Outcome, Use, simulate

VALIDATION_SHARE = 1 / 3  # of a training step's time: the forward pass alone
FITS = 0.6  # of the memory, for a set that stays in the system's cache: as loaders.paging has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A data set as it is stored.

    Attributes:
        name: for people.
        kb: of an image, in the mean.
        decode: what an image takes.
        threads: that it was measured with, and that share the work.
        convert: flags of `twistnet convert` that make it.
        keeps_pixels: whether it holds what was downloaded.
        least_side: shorter side of its usual photographs in pixels, where it holds smaller ones than were downloaded.
    """

    name: str
    kb: float
    decode: Cost
    convert: str
    keeps_pixels: bool
    threads: int = 1
    least_side: int = 0

    def gb(self, images: int) -> float:
        """Of so many images, in GB."""
        return self.kb * images / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Nodes that are alike.

    Attributes:
        card: its name; "" where the processors train.
        cards: of a node; 1 where the processors train.
        nodes: how many.
        cores: of a node, for loading; for training too without a card.
        memory_gib: of a node.
        disk_mb_per_s: that a node reads at random where a set is not in memory.
        link_gb_per_s: from a node's memory to each card.
        fabric_gb_per_s: of a ring of the cards of a node.
        network_gb_per_s: of a node to the others.
    """

    card: str
    cards: int
    nodes: int
    cores: float
    memory_gib: float
    disk_mb_per_s: float
    link_gb_per_s: float
    fabric_gb_per_s: float
    network_gb_per_s: float

    def needed_gib(self, gb: float) -> float:
        """GiB of memory that a node needs for a set of so many GB to stay in it."""
        return gb * 1e9 / 2**30 / FITS

    def fits(self, gb: float) -> bool:
        """Whether a set stays in the memory of every node."""
        return gb <= self.fitting_gb()

    def fitting_gb(self) -> float:
        """GB of the largest set that does."""
        return FITS * self.memory_gib * 2**30 / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is trained.

    Attributes:
        step: images a second of the model's step alone, on one card or on the processors.
        step_core_s: seconds of a core an image of it, where the processors train; else 0.
        augment: what augmentation takes an image, on the cores or on the card.
        batch_size: of a card.
        size: side of the images in pixels.
        gradient_mb: that the cards exchange in a step.
        upload: what moving an image to the device takes, where it was measured; else the machine's link tells it.
        read: what reading an image of `read_kb` takes, where it was measured, from wherever it then was.
        read_kb: kB of such an image.
        in_company: where the processors train, what "decode" and "step" get done of their shares while both work.
        images: of an epoch.
        val_images: that are scored after each epoch.
    """

    step: Figure
    step_core_s: float
    augment: Cost | None
    batch_size: int
    size: int
    gradient_mb: float
    upload: Cost | None = None
    read: Cost | None = None
    read_kb: float = 0.0
    in_company: Mapping[str, float] = field(default_factory=dict)
    images: int = IMAGENET_TRAIN
    val_images: int = IMAGENET_VAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A simulated run.

    Attributes:
        images_per_s: of all cards together.
        epoch_s: seconds of an epoch, with its validation.
        bound: the stage that bounds it.
        outcome: what the simulation saw.
    """

    images_per_s: float
    epoch_s: float
    bound: str
    outcome: Outcome

    def days(self, epochs: int) -> float:
        """Of so many epochs."""
        return self.epoch_s * epochs / 86_400


def predict(machine: Machine, load: Load, form: Form) -> Prediction:
    """Simulates a run of the load on the machine, over a set of that form."""
    batches, capacities = of_batches(machine, load, form)
    outcome = simulate(batches, capacities, ranks=machine.cards)
    total = outcome.batches_per_s * load.batch_size * machine.cards * machine.nodes
    # Validation has no gradients: its steps are shorter, and wait where loading cannot keep up with them.
    step = batches.step
    forward = replace(batches, step=replace(step, amount=step.amount * VALIDATION_SHARE), reduce=None)
    scored = simulate(forward, capacities, ranks=machine.cards).batches_per_s
    scored *= load.batch_size * machine.cards * machine.nodes
    return Prediction(
        images_per_s=total,
        epoch_s=load.images / total + load.val_images / scored,
        bound=outcome.bound,
        outcome=outcome,
    )


def of_batches(machine: Machine, load: Load, form: Form) -> tuple[Batches, Mapping[str, float]]:
    """What a batch takes on the machine, and what the machine has."""
    count, on_card = load.batch_size, bool(machine.card)
    # All threads of a process decode a batch together.
    decode_s = form.decode.seconds * form.threads * machine.cards / machine.cores
    costs = {
        "decode": Cost(seconds=decode_s, core_s=form.decode.core_s),
        "step": Cost(seconds=1 / load.step.value, core_s=load.step_core_s),
        **({"augment": load.augment} if load.augment else {}),
    }
    alone = Costs(stages=costs, on_card=on_card, in_company=load.in_company).batches(count)
    more: dict[str, Use] = {}
    image = 3.0 * load.size**2
    read_bytes_per_s = load.read_kb * 1e3 / load.read.seconds if load.read else float("inf")
    link = image / load.upload.seconds if load.upload else machine.link_gb_per_s * 1e9
    if not machine.fits(form.gb(load.images)):
        more["read"] = Use(resource="disk", amount=count * form.kb * 1e3)
    elif load.read:
        more["read"] = Use(resource="memory", amount=count * form.kb * 1e3)
    if on_card or load.upload:
        more["upload"] = Use(resource="link", amount=count * image)
    ranks = machine.cards * machine.nodes
    reduce = None
    if ranks > 1:
        # A ring moves nearly twice the gradients past every member; between nodes each node's cards share its network.
        moved = 2 * (ranks - 1) / ranks * load.gradient_mb * 1e6
        reduce = Use(resource="network" if machine.nodes > 1 else "fabric", amount=moved / machine.cards)
    capacities = {
        "cores": machine.cores,
        "disk": min(machine.disk_mb_per_s * 1e6, read_bytes_per_s),
        "memory": read_bytes_per_s,
        "link": link,
        "card": 1.0,
        "fabric": machine.fabric_gb_per_s * 1e9,
        "network": machine.network_gb_per_s * 1e9,
    }
    return replace(alone, stages={**alone.stages, **more}, reduce=reduce), capacities
