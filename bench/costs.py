"""From measured rates of stages alone to what a batch takes, as `bench.simulation` needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.simulation import Batches, Use
from bench.timing import Rate

# torch's threads meet after every operator. Two of them on two cores that two decoding threads share advance only while
# both run, half of half the time; in rows of train.csv that is 1 to 6 % off where steps take most of the cores, and
# 15 % where decoding takes half of them.
OPERATORS_IN_COMPANY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an image takes of a stage, as it was measured alone.

    Attributes:
        seconds: from one image to the next.
        core_s: seconds of a core.
    """

    seconds: float
    core_s: float

    def on_cores(self, batch_size: int, in_company: float = 1.0) -> Use:
        """As work of the cores: never faster than it was alone, with as many threads as then worked."""
        threads = self.core_s / self.seconds
        amount = batch_size * self.core_s
        return Use(resource="cores", amount=amount, limit=threads, weight=threads, in_company=in_company)

    def elsewhere(self, resource: str, batch_size: int) -> Use:
        """As work of a resource that does one second's work in a second."""
        return Use(resource=resource, amount=batch_size * self.seconds, limit=1.0)

    @classmethod
    def of(cls, rate: Rate) -> Cost:
        """As a bench has measured it."""
        return cls(seconds=1 / rate.median, core_s=rate.core_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What an image takes of every stage of one process.

    Attributes:
        stages: "read", "decode", "upload", "augment", as far as they take anything, and "step".
        on_card: whether augmentation and step are a card's.
    """

    stages: Mapping[str, Cost]
    on_card: bool

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
                on_cores = cost.on_cores(batch_size, OPERATORS_IN_COMPANY if name == "step" else 1.0)
                found[name] = cost.elsewhere("card", batch_size) if self.on_card else on_cores
        step = found.pop("step")
        return Batches(stages=found, step=step, look_ahead=look_ahead)
