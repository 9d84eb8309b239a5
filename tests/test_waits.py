"""Steps that waited for data are counted: by the loader's clock, and on a card by events on its stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from loaders import Batch, Loader
from twistnet.distributed import World
from twistnet.meter import Meter
from twistnet.waits import CardWaits, HostWaits

CPU = torch.device("cpu")


class FakeLoader:
    """Its clock says what a test wants."""

    def __init__(self) -> None:
        self.clock = {"wait": 0.0, "decode": 0.0}

    def seconds(self) -> Mapping[str, float]:
        return dict(self.clock)


def test_the_first_wait_of_an_epoch_and_short_ones_do_not_count() -> None:
    loader = FakeLoader()
    waits = HostWaits(cast(Loader, loader))
    for waited in (5.0, 0.0, 0.0005, 0.02, 0.04):
        loader.clock["wait"] += waited
        time.sleep(waited if waited < 1 else 0)
        waits.begin()
        time.sleep(0.02)
        waits.end()
    assert (waits.steps, waits.waited_steps) == (4, 2)
    assert waits.waited_s == pytest.approx(0.0605)
    waits.start()
    waits.begin()
    assert (waits.steps, waits.waited_s) == (0, 0.0)


class FakeEvent:
    """Of a card whose clock a test sets, in milliseconds."""

    now = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, _: object) -> None:
        self.at = FakeEvent.now

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


def test_a_card_waits_from_the_end_of_a_step_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    waits = CardWaits(CPU)

    def steps(*gaps: float) -> None:
        for gap in gaps:
            FakeEvent.now += gap
            waits.begin()
            FakeEvent.now += 10.0
            waits.end()

    steps(500.0, 0.1, 5.0)
    waits.read()
    steps(300.0, 10.0)  # the first after a log row, which the card has waited for
    assert (waits.steps, waits.waited_steps) == (2, 1)
    waits.read()
    assert (waits.steps, waits.waited_steps) == (3, 2)
    assert waits.waited_s == pytest.approx(15.1e-3)


@pytest.mark.gpu
def test_a_cards_own_events_tell_idling_from_work() -> None:
    card = torch.device("cuda", 0)
    waits = CardWaits(card)
    weight = torch.randn(4096, 4096, device=card)
    for gap in (0.0, 0.0, 0.05, 0.0):
        time.sleep(gap)
        waits.begin()
        for _ in range(20):
            weight @ weight
        waits.end()
        torch.cuda.synchronize(card)
    waits.read()
    assert waits.steps == 3
    assert waits.waited_s == pytest.approx(0.05, abs=0.02)


class Two(World):
    """This rank, and one that waited a second more."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        other = tensor.clone()
        other[3] += 1.0
        return torch.stack([tensor, other])


def test_the_rank_that_waited_most_is_told_of() -> None:
    loader = FakeLoader()
    meter = Meter(Two(rank=0, world_size=2, device=CPU), cast(Loader, loader))
    meter.start()
    for _ in range(3):
        meter.begin()
        loader.clock["wait"] += 0.25
        loader.clock["decode"] += 0.5
        meter.count(torch.zeros(2, 3), torch.tensor(1.0), next(batches()))
        meter.end()
    meter.read()
    measured, stages, seen = meter.read_epoch()
    assert measured["wait_s"] == 0.75
    assert stages == {"wait": 0.75, "decode": 1.5}
    assert (seen.rank, seen.steps, seen.waited_steps) == (1, 2, 2)
    assert seen.waited_s == pytest.approx(1.5)
    assert seen.stages["decode"] == 1.5


def batches() -> Iterator[Batch]:
    labels, weight = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    while True:
        images: Any = torch.zeros(2, 3, 4, 4)
        yield Batch(images, labels, labels, weight, weight > 0, labels)
