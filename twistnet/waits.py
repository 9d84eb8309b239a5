"""Which steps waited for data, and for how long."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from loaders import Loader
from twistnet.bottleneck import WAITED


class Waits(Protocol):
    """Counts steps, once they are known to have waited or not.

    Attributes:
        steps: that were counted.
        waited_steps: those that waited.
        waited_s: seconds that they all waited.
    """

    steps: int
    waited_steps: int
    waited_s: float

    def start(self) -> None:
        """Begins anew: the first batch after this is waited for while queues fill, and does not count."""

    def begin(self) -> None:
        """To be called when a batch has come, before its step."""

    def end(self) -> None:
        """To be called after its step."""

    def read(self) -> None:
        """To be called where the host has waited for the device."""


class HostWaits:
    """Of a model that the host computes: what the consumer spends in the loader's `next()`.

    Args:
        loader: whose batches are waited for.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.start()

    def start(self) -> None:
        self.steps = self.waited_steps = 0
        self.waited_s = 0.0
        self._last: tuple[float, float] | None = None  # at the batch before: seconds waited, and the time

    def begin(self) -> None:
        now = self._loader.seconds().get("wait", 0.0), time.perf_counter()
        if self._last:
            waited, took = (after - before for before, after in zip(self._last, now, strict=True))
            self.steps += 1
            self.waited_steps += waited > WAITED * took
            self.waited_s += waited
        self._last = now

    def end(self) -> None:
        """Nothing: the loader's clock counts the waiting."""

    def read(self) -> None:
        """Nothing is left to be known."""


class CardWaits:
    """Of a model on a card: from the end of a step there to when the next one may begin.

    The host is some steps ahead, so that its own waiting says little. Events on the card's stream say when it was done,
    and when the next batch was there; they are read where the host waits for the card anyway, and what the card idles
    meanwhile does not count.

    Args:
        device: the card.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        self.steps = self.waited_steps = 0
        self.waited_s = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # of steps: begun, done

    def begin(self) -> None:
        self._begun = self._now()

    def end(self) -> None:
        self._events.append((self._begun, self._now()))

    def read(self) -> None:
        for (before, done), (begun, _) in zip(self._events, self._events[1:], strict=False):
            waited = done.elapsed_time(begun)
            self.steps += 1
            self.waited_steps += waited > WAITED * before.elapsed_time(begun)
            self.waited_s += waited / 1e3
        self._events = []

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def waits_of(loader: Loader, device: torch.device) -> Waits:
    """What counts the waits for a loader's batches of a model on that device."""
    return CardWaits(device) if device.type == "cuda" else HostWaits(loader)
