"""Which process of a run this is, as torchrun (or anything that sets the same variables) says it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The place of this process among all of the run's.

    Attributes:
        rank: 0 to world_size - 1, unique over all nodes.
        world_size: processes of the run, at least 1.
        local_rank: 0 to world_size - 1, unique on this node: the number of its card.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be.

        Raises:
            ValueError: one sentence that names the variable, its value and its limit.
        """
        if self.world_size < 1:
            raise ValueError(f"WORLD_SIZE is {self.world_size}: it counts the processes and is at least 1.")
        for name, value in (("RANK", self.rank), ("LOCAL_RANK", self.local_rank)):
            if not 0 <= value < self.world_size:
                raise ValueError(
                    f"{name} is {value} with WORLD_SIZE {self.world_size}: it must lie between 0 and "
                    f"{self.world_size - 1}; start the run with torchrun, which sets both."
                )

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that prints and writes files."""
        return self.rank == 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Ranks:
        """Reads RANK, WORLD_SIZE and LOCAL_RANK; without them this is the only process.

        Args:
            environ: the environment variables.

        Raises:
            ValueError: one sentence, where a value is no whole number, is out of its limits, or where one of several
                processes does not know its rank: it would train alone, or on another process's card.
        """
        found = {name: environ[name].strip() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if environ.get(name)}
        for name, text in found.items():
            # Not int() alone, which takes "1_0" and other digits than ASCII's.
            if not (text.isascii() and text.removeprefix("-").isdigit()):
                raise ValueError(f"{name} is {text!r}, which is no whole number: unset it or start with torchrun.")
        world_size = int(found.get("WORLD_SIZE", "1"))
        missing = [name for name in ("RANK", "LOCAL_RANK") if name not in found]
        if world_size > 1 and missing:
            raise ValueError(
                f"WORLD_SIZE is {world_size} but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not "
                "set: start the run with torchrun, or unset WORLD_SIZE to run one process."
            )
        return cls(
            rank=int(found.get("RANK", "0")), world_size=world_size, local_rank=int(found.get("LOCAL_RANK", "0"))
        )
