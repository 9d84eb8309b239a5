"""Honest timing: warmed up, interleaved, repeated, and waited for; with what it took of the cores and the memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from loaders.cores import usable_cores

CALLS_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Images a second over several rounds.

    Attributes:
        n: rounds.
        median: of the rounds.
        low: the slowest round.
        high: the fastest round.
        each: every round, in order.
        first_s: seconds of the call before the rounds, which opens, compiles and warms up; of a loader, to its first
            batch. 0 where it was not measured, as all that follows.
        cpu_share: of the usable cores' time in the rounds, 0 to 1, this process's threads.
        memory_bytes: largest resident memory in the rounds.
        card_bytes: largest memory of the card that torch's allocator held in them; 0 without a card.
    """

    n: int
    median: float
    low: float
    high: float
    each: tuple[float, ...] = ()
    first_s: float = 0.0
    cpu_share: float = 0.0
    memory_bytes: int = 0
    card_bytes: int = 0

    @classmethod
    def of(cls, each: list[float], **usage: float) -> Rate:
        """Of the rates of all rounds."""
        return cls(
            n=len(each),
            median=statistics.median(each),
            low=min(each),
            high=max(each),
            each=tuple(each),
            **usage,  # type: ignore[arg-type]
        )

    @property
    def core_s(self) -> float:
        """Seconds of a core that an image takes."""
        return self.cpu_share * usable_cores() / self.median

    def ratio_to(self, other: Rate) -> float:
        """This rate over the other's: the median over interleaved rounds, so that a drift meets both alike."""
        if len(self.each) != len(other.each) or not self.each:
            return self.median / other.median
        return statistics.median(ours / theirs for ours, theirs in zip(self.each, other.each, strict=True))


@dataclass(slots=True)
class _Found:
    """What the rounds of one thing have shown so far."""

    first_s: float
    rates: list[float]
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_bytes: int = 0
    card_bytes: int = 0

    def rate(self) -> Rate:
        return Rate.of(
            self.rates,
            first_s=self.first_s,
            cpu_share=self.cpu_s / self.wall_s / usable_cores(),
            memory_bytes=self.memory_bytes,
            card_bytes=self.card_bytes,
        )


def measure(
    runs: Mapping[str, Callable[[], int]],
    *,
    rounds: int,
    seconds: float,
    device: torch.device,
    before: Callable[[str], object] = lambda _: None,
) -> dict[str, Rate]:
    """Times several things against each other.

    Each is called once to warm up. Then every round calls each in turn for about `seconds`, so that a drift of the
    machine's speed meets all of them alike. On a card CUDA events say when its work has begun and ended.

    Args:
        runs: by name; each call works on some images and returns how many.
        rounds: n.
        seconds: of one thing in one round; 0: a single call.
        device: what the work runs on.
        before: called with the name before every round of it, outside the time.
    """
    clock = CardClock(device) if device.type == "cuda" else HostClock()
    found = {}
    for name, run in runs.items():
        before(name)
        clock.start()
        run()
        found[name] = _Found(clock.elapsed(), [])
    for _ in range(rounds):
        for name, run in runs.items():
            before(name)
            _round(run, seconds, clock, found[name])
    return {name: each.rate() for name, each in found.items()}


def _round(run: Callable[[], int], seconds: float, clock: HostClock | CardClock, found: _Found) -> None:
    forget_peak()
    clock.start()
    images, elapsed, cpu_s = 0, 0.0, time.process_time()
    while not images or elapsed < seconds:
        images += sum(run() for _ in range(clock.calls_ahead))
        elapsed = clock.elapsed()
    found.cpu_s += time.process_time() - cpu_s
    found.wall_s += elapsed
    found.rates.append(images / elapsed)
    found.memory_bytes = max(found.memory_bytes, peak_bytes())
    found.card_bytes = max(found.card_bytes, clock.peak_bytes())


class HostClock:
    """Seconds of what is done when its call returns."""

    calls_ahead = 1

    def start(self) -> None:
        """Begins to count."""
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since `start`."""
        return time.perf_counter() - self._began

    def peak_bytes(self) -> int:
        """There is no card."""
        return 0


class CardClock:
    """Seconds on a card between two points of its current stream.

    A few calls are made at once, as in training: a card that is waited for after each would idle in between.
    """

    calls_ahead = CALLS_AHEAD

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Begins to count, once all that was asked of the card before is done."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._begin.record(torch.cuda.current_stream(self._device))

    def elapsed(self) -> float:
        """Seconds since `start`, once all that was asked of the card since is done, on other streams too."""
        torch.cuda.synchronize(self._device)
        self._end.record(torch.cuda.current_stream(self._device))
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / 1e3

    def peak_bytes(self) -> int:
        """Largest memory that torch's allocator held since `start`."""
        return int(torch.cuda.max_memory_allocated(self._device))


def forget_peak() -> None:
    """Makes `peak_bytes` count from here, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(pid: int | str = "self") -> int:
    """Largest resident memory of a process, mapped files included; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
