"""A simulated run: batches that go through the stages of the real loader and of the step, on shared resources.

    read -> decode -> upload -> augment -> [ready] -> step -> all-reduce
    disk    cores     link      cores or card         card or cores   network

As in `loaders.loader`, two batches are read and decoded at once, one thread uploads and augments, so many batches may
be ahead, and one waits for the consumer. Work on a resource is fluid: who uses it shares it in proportion to the
threads that each has, none faster than its own limit, as processes share cores, disks and links. Rates of stages alone
say what each can do; only together do they show what waits for what: a queue that hides a slow disk until it is empty,
a step that computes on the very cores that decode, ranks that wait for the slowest.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from loaders.loader import BATCHES_AT_ONCE
from twistnet.bottleneck import bound_by

_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Work on a resource.

    Attributes:
        resource: its name.
        amount: of its units: core seconds, bytes, seconds of a card.
        limit: units a second that this work can take at most.
        weight: its share where others work there too: the threads that it has.
        in_company: share of its part that gets it on while others crowd the resource. Threads that meet after every
            operation wait for the one that was interrupted, and spin.
    """

    resource: str
    amount: float
    limit: float = float("inf")
    weight: float = 1.0
    in_company: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """What a batch of one rank takes; None for a stage that takes nothing.

    Attributes:
        stages: by name, in the order of the loader: "read", "decode", "upload", "augment".
        step: of the model, without its all-reduce.
        reduce: of the gradients over all ranks.
        look_ahead: batches ahead of the consumer.
    """

    stages: Mapping[str, Use]
    step: Use
    reduce: Use | None = None
    look_ahead: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a simulated run shows, after its queues have filled.

    Attributes:
        batches_per_s: of a rank.
        waited: share of the time that rank 0 waits for data, 0 to 1.
        busy: of each stage, the share of the time that rank 0 spends in it, work that others slow down included; of
            "read", which two batches may be in at once, half of it.
    """

    batches_per_s: float
    waited: float
    busy: Mapping[str, float]

    @property
    def bound(self) -> str:
        """The stage that bounds the run, by the same rule as in a training log."""
        return bound_by(self.waited, self.busy)


class _Work:
    """Something that a process waits for on a resource."""

    __slots__ = ("left", "process", "use")

    def __init__(self, process: _Process, use: Use) -> None:
        self.process, self.use, self.left = process, use, use.amount


class _Get:
    """Waits for an item of a queue."""

    __slots__ = ("queue",)

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue


class _Put:
    """Waits for room in a queue."""

    __slots__ = ("queue",)

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue


class _Meet:
    """Waits for all ranks."""


_Process: TypeAlias = "Generator[Use | _Get | _Put | _Meet, None, None]"


class _Queue:
    """Counts items, at most `room` of them."""

    def __init__(self, room: float = float("inf"), items: int = 0) -> None:
        self.room, self.items = room, items
        self.getters: deque[_Process] = deque()
        self.putters: deque[_Process] = deque()


class _Engine:
    """Runs processes in simulated time."""

    def __init__(self, capacities: Mapping[str, float], ranks: int) -> None:
        self.now = 0.0
        self._capacities = capacities
        self._ranks = ranks
        self._work: dict[str, list[_Work]] = {name: [] for name in capacities}
        self._ready: deque[_Process] = deque()
        self._met: list[_Process] = []

    def start(self, process: _Process) -> None:
        self._ready.append(process)

    def run(self, until: Callable[[], bool]) -> None:
        """Goes on until a condition holds."""
        while True:
            while self._ready:
                self._advance(self._ready.popleft())
            if until():
                return
            self._work_on()

    def _advance(self, process: _Process) -> None:
        for wish in process:
            if isinstance(wish, Use):
                if wish.amount > _EPSILON:
                    self._work[wish.resource].append(_Work(process, wish))
                    return
            elif isinstance(wish, _Get):
                if not wish.queue.items:
                    wish.queue.getters.append(process)
                    return
                wish.queue.items -= 1
                if wish.queue.putters:
                    wish.queue.items += 1
                    self._ready.append(wish.queue.putters.popleft())
            elif isinstance(wish, _Put):
                if wish.queue.getters:
                    self._ready.append(wish.queue.getters.popleft())
                elif wish.queue.items < wish.queue.room:
                    wish.queue.items += 1
                else:
                    wish.queue.putters.append(process)
                    return
            else:
                self._met.append(process)
                if len(self._met) < self._ranks:
                    return
                self._met.remove(process)
                self._ready.extend(self._met)
                self._met = []

    def _work_on(self) -> None:
        """Lets all work go on until some of it is done."""
        speeds = {name: self._speeds(name) for name, work in self._work.items() if work}
        step = min(each.left / speed for found in speeds.values() for each, speed in found)
        self.now += step
        for name, found in speeds.items():
            self._work[name] = []
            for each, speed in found:
                each.left -= speed * step
                if each.left <= _EPSILON * max(1.0, each.use.amount):
                    self._ready.append(each.process)
                else:
                    self._work[name].append(each)

    def _speeds(self, name: str) -> list[tuple[_Work, float]]:
        """All work on a resource, and what of it gets done, in units a second."""
        work, capacity = self._work[name], self._capacities[name]
        uses = [each.use for each in work]
        crowded = len(uses) > 1 and sum(use.limit for use in uses) > capacity
        return [
            (each, part * (each.use.in_company if crowded else 1.0))
            for each, part in zip(work, shared_out(uses, capacity), strict=True)
        ]


def shared_out(uses: list[Use], capacity: float) -> list[float]:
    """Units a second for each: in proportion to their weights, what one cannot take going to the others."""
    rates = [0.0] * len(uses)
    # Those whose limits bind first are served first.
    order = [(use.limit / use.weight, place) for place, use in enumerate(uses)]
    heapq.heapify(order)
    weights = sum(use.weight for use in uses)
    while order:
        _, place = heapq.heappop(order)
        use = uses[place]
        rates[place] = min(use.limit, capacity * use.weight / weights)
        capacity -= rates[place]
        weights -= use.weight
    return rates


@dataclass(slots=True)
class _Seen:
    """What rank 0 has done."""

    steps: int = 0
    waited: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)


def simulate(
    batches: Batches, capacities: Mapping[str, float], *, ranks: int = 1, steps: int = 60, filling: int = 20
) -> Outcome:
    """Runs a number of steps.

    Args:
        batches: what those of every rank take.
        capacities: units a second of every resource that all ranks share. A resource named "card" or "link" is each
            rank's own.
        ranks: of the machine.
        steps: that are looked at.
        filling: steps before them.
    """
    own = {
        f"{name} {rank}": capacities[name] for name in ("card", "link") if name in capacities for rank in range(ranks)
    }
    engine = _Engine({**capacities, **own}, ranks)
    seen = [_Seen() for _ in range(ranks)]
    for rank in range(ranks):
        _start_rank(engine, batches, rank, seen[rank])
    engine.run(lambda: seen[0].steps >= filling)
    began, busy = engine.now, dict(seen[0].busy)
    seen[0].waited = 0.0
    engine.run(lambda: seen[0].steps >= filling + steps)
    took = engine.now - began
    at_once = {"read": BATCHES_AT_ONCE}
    return Outcome(
        batches_per_s=steps / took,
        waited=seen[0].waited / took,
        busy={
            name: (total - busy.get(name, 0.0)) / took / at_once.get(name, 1) for name, total in seen[0].busy.items()
        },
    )


def _start_rank(engine: _Engine, batches: Batches, rank: int, seen: _Seen) -> None:
    begun, ready = _Queue(), _Queue(room=1)
    decoding = _Queue(room=1)  # the decoder's threads work on one batch at a time
    done: dict[int, _Queue] = {}
    numbers = itertools.count()

    def own(use: Use) -> Use:
        if use.resource not in ("card", "link"):
            return use
        return dataclasses.replace(use, resource=f"{use.resource} {rank}")

    def timed(name: str, use: Use) -> _Process:
        began = engine.now
        yield own(use)
        seen.busy[name] = seen.busy.get(name, 0.0) + engine.now - began

    def worker() -> _Process:
        while True:
            yield _Get(begun)
            number = next(numbers)
            for name in ("read", "decode"):
                if name in batches.stages:
                    if name == "decode":
                        yield _Put(decoding)
                    yield from timed(name, batches.stages[name])
                    if name == "decode":
                        yield _Get(decoding)
            yield _Put(done[number])

    def ahead() -> _Process:
        begins = 0
        for number in itertools.count():
            while begins - number <= batches.look_ahead:
                done[begins] = _Queue()
                begins += 1
                yield _Put(begun)
            yield _Get(done[number])
            del done[number]
            for name in ("upload", "augment"):
                if name in batches.stages:
                    yield from timed(name, batches.stages[name])
            yield _Put(ready)

    def consumer() -> _Process:
        while True:
            began = engine.now
            yield _Get(ready)
            seen.waited += engine.now - began
            yield from timed("step", batches.step)
            if batches.reduce:
                yield _Meet()
                yield from timed("all-reduce", batches.reduce)
                yield _Meet()
            seen.steps += 1

    for process in (*(worker() for _ in range(BATCHES_AT_ONCE)), ahead(), consumer()):
        engine.start(process)
