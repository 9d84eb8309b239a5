"""From measured rates of stages alone to what a batch takes, as `bench.simulation` needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.simulation import Batches, Use, shared_out
from bench.timing import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an image takes of a stage, as it was measured alone.

    Attributes:
        seconds: from one image to the next.
        core_s: seconds of a core.
    """

    seconds: float
    core_s: float

    def on_cores(self, batch_size: int) -> Use:
        """As work of the cores: never faster than it was alone, with as many threads as then worked."""
        threads = self.core_s / self.seconds
        amount = batch_size * self.core_s
        return Use(resource="cores", amount=amount, limit=threads, weight=threads)

    def elsewhere(self, resource: str, batch_size: int) -> Use:
        """As work of a resource that does one second's work in a second."""
        return Use(resource=resource, amount=batch_size * self.seconds, limit=1.0)

    def times(self, factor: float) -> Cost:
        """Of so many times the work."""
        return Cost(seconds=factor * self.seconds, core_s=factor * self.core_s)

    @classmethod
    def of(cls, rate: Rate) -> Cost:
        """As a bench has measured it."""
        return cls(seconds=1 / rate.median, core_s=rate.core_s)


def in_company(decode: Cost, step: Cost, company: Mapping[str, float], cores: float) -> dict[str, float]:
    """What "decode" and "step" get done of their share of the cores, where both work on all of them at once.

    Threads that share cores are slower than their shares: torch's meet after every operator, and then wait for the one
    that was interrupted.

    Args:
        decode: alone.
        step: alone.
        company: images a second of each, measured while both worked.
        cores: that they share.
    """
    alone = {"decode": decode, "step": step}
    parts = shared_out([cost.on_cores(1) for cost in alone.values()], cores)
    # What is done is counted in the seconds that it takes a core alone.
    return {
        name: min(1.0, company[name] * cost.core_s / part)
        for (name, cost), part in zip(alone.items(), parts, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What an image takes of every stage of one process.

    Attributes:
        stages: "read", "decode", "upload", "augment", as far as they take anything, and "step".
        on_card: whether augmentation and step are a card's.
        in_company: of "decode" and of "step", as `in_company` finds it; empty where that was not measured.
    """

    stages: Mapping[str, Cost]
    on_card: bool
    in_company: Mapping[str, float] = field(default_factory=dict)

    def batches(self, batch_size: int, look_ahead: int = 3) -> Batches:
        """Of this very process."""
        found: dict[str, Use] = {}
        if "read" in self.stages:
            # What a disk makes us wait for is no work of the cores; what they copy is part of decoding, too.
            found["read"] = self.stages["read"].elsewhere("disk", batch_size)
        if "decode" in self.stages:
            found["decode"] = self.stages["decode"].on_cores(batch_size)
        if "upload" in self.stages:
            found["upload"] = self.stages["upload"].elsewhere("link", batch_size)
        for name in ("augment", "step"):
            if name in self.stages:
                cost = self.stages[name]
                found[name] = cost.elsewhere("card", batch_size) if self.on_card else cost.on_cores(batch_size)
        if not self.on_card:
            found |= {name: replace(found[name], in_company=share) for name, share in self.in_company.items()}
        step = found.pop("step")
        return Batches(stages=found, step=step, look_ahead=look_ahead)
