"""What ranks agree on at every step, without waiting for each other at that step."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from twistnet.distributed import World


class Agreement:
    """The largest number that any rank has said, which every rank learns at the same call.

    The exchange runs on the host while the step computes, and its result is read one call later, so that neither the
    device nor the host waits for it.

    Args:
        world: all of its ranks make one, at the same point of the program.
    """

    def __init__(self, world: World) -> None:
        self._group = dist.new_group(backend="gloo") if world.world_size > 1 else None
        self._asked: tuple[dist.Work, Tensor] | None = None

    def __call__(self, here: int) -> int:
        """Says a number, and returns the largest that ranks said at the call before: of this one, where there is one
        rank. All ranks call it equally often."""
        if self._group is None:
            return here
        agreed = self._answer()
        said = torch.tensor(here)
        work = dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._asked = cast(dist.Work, work), said
        return agreed

    def close(self) -> None:
        """Ends the exchange that is under way. All ranks call this after equally many calls, or none of them does."""
        self._answer()

    def _answer(self) -> int:
        if self._asked is None:
            return 0
        work, said = self._asked
        work.wait()
        self._asked = None
        return int(said)
