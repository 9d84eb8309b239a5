"""Honest timing: warmed up, interleaved, repeated, and waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Images a second over several rounds.

    Attributes:
        n: rounds.
        median: of the rounds.
        low: the slowest round.
        high: the fastest round.
        each: every round, in order.
    """

    n: int
    median: float
    low: float
    high: float
    each: tuple[float, ...] = ()

    def ratio_to(self, other: Rate) -> float:
        """This rate over the other's: the median over interleaved rounds, so that a drift meets both alike."""
        if len(self.each) != len(other.each) or not self.each:
            return self.median / other.median
        return statistics.median(ours / theirs for ours, theirs in zip(self.each, other.each, strict=True))


CALLS_AHEAD = 4


def measure(
    runs: Mapping[str, Callable[[], int]], *, rounds: int, seconds: float, device: torch.device
) -> dict[str, Rate]:
    """Times several things against each other.

    Each is called once to warm up. Then every round calls each in turn for about `seconds`, so that a drift of the
    machine's speed meets all of them alike. On a card the time ends when its work has ended.

    Args:
        runs: by name; each call works on some images and returns how many.
        rounds: n.
        seconds: of one thing in one round; 0: a single call.
        device: what the work runs on.
    """
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            _wait(device)
            images, elapsed, start = 0, 0.0, time.perf_counter()
            while not images or elapsed < seconds:
                # A few calls at once, as in training: a card that is waited for after each would idle in between.
                images += sum(run() for _ in range(CALLS_AHEAD if device.type == "cuda" else 1))
                _wait(device)
                elapsed = time.perf_counter() - start
            rates[name].append(images / elapsed)
    return {
        name: Rate(n=rounds, median=statistics.median(found), low=min(found), high=max(found), each=tuple(found))
        for name, found in rates.items()
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
