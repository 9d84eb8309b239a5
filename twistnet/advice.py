"""What to say of the stage that bounds a run, and what to try."""

from __future__ import annotations

from dataclasses import dataclass

from loaders import Loader
from loaders.cores import usable_cores
from twistnet.bottleneck import TRAINING, Seen
from twistnet.distributed import World

_PLACES = {"stage": "source of the shards", "read": "storage", "upload": "link", "all-reduce": "network"}
_SMALLER = "images converted smaller (twistnet convert --images max_side=400)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What advice depends on.

    Attributes:
        on_card: whether the model trains on a card.
        ranks: processes of the run.
        threads: that decode.
        cores: that this process may use.
        form: of the data set: "tree", "shards" or "beton".
        decoder: its name.
    """

    on_card: bool
    ranks: int
    threads: int
    cores: int
    form: str
    decoder: str

    @classmethod
    def of(cls, loader: Loader, world: World, threads: int | None) -> Setting:
        """Of a run; None threads are as many as cores."""
        cores = usable_cores()
        return cls(
            on_card=world.device.type == "cuda",
            ranks=world.world_size,
            threads=cores if threads is None else threads,
            cores=cores,
            form=loader.store,
            decoder=loader.decoder,
        )

    def bound(self, seen: Seen) -> str:
        """The stage that bounds those steps."""
        return seen.bound(min(self.threads, self.cores))

    def line(self, seen: Seen) -> str:
        """What bounds those steps and what to try, for the end of an epoch."""
        stage = self.bound(seen)
        where = f"{self.place(stage)}, rank {seen.rank}" if self.ranks > 1 else self.place(stage)
        named = f"bound by: {stage} ({where}), {seen.waited_share:.0%} of steps waited for data"
        return f"{named}; {'loading keeps up' if stage in TRAINING else f'try {self.advice(stage)}'}"

    def place(self, stage: str) -> str:
        """What works on a stage, for people to read."""
        if stage == "decode":
            return "card" if self.on_card and self.decoder in ("device", "dali") else "CPU"
        return _PLACES.get(stage, "card" if self.on_card else "CPU")

    def advice(self, stage: str) -> str:
        """What to try where a stage of loading bounds the run: what costs least first."""
        if stage == "stage":
            return f"a larger --stage_gb, smaller shards (twistnet convert --shard_size 0.1), or {_SMALLER}"
        if stage == "read":
            packed = "shards instead of single files (twistnet convert)" if self.form == "tree" else _SMALLER
            return f"{packed}, or a copy on a local disk"
        if stage == "decode":
            few = self.threads * self.ranks < self.cores
            return f"--workers {self.cores // self.ranks}, or {_SMALLER}" if few else _SMALLER
        if stage == "upload":
            return "a smaller --size, or a card with a link of its own (python -m bench upload measures it)"
        return "a cheaper --policy (python -m bench augment measures them)"
