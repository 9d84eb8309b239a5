"""The batches to come, in the order in which a rank will begin them, and the shards that they need."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.order import Order

_LONGEST = 4096  # steps

_Ints = npt.NDArray[np.int64]


class Step(NamedTuple):
    """A batch.

    Attributes:
        at: its epoch and step.
        shards: that it needs.
    """

    at: tuple[int, int]
    shards: list[int]


class Plan:
    """Goes on behind the batch that was begun last, into the next epoch, as far as it is asked to.

    Args:
        order: of all ranks' samples.
        shard_of: (N,) the shard of every sample.
        rank: whose batches, of `world_size`.
        world_size: ranks.
    """

    def __init__(self, order: Order, shard_of: _Ints, rank: int, world_size: int) -> None:
        self._order, self._shard_of, self._rank, self._world_size = order, shard_of, rank, world_size
        self._all = len(np.unique(shard_of))
        self._steps: deque[Step] = deque()
        self._counts: dict[int, int] = {}  # steps that need a shard, in the order of the first one
        self._following: Step | None = None

    @property
    def shards(self) -> list[int]:
        """Those of the planned steps, about in the order in which they are needed."""
        return list(self._counts)

    def shards_of(self, ids: _Ints) -> list[int]:
        """Those of some samples."""
        found: list[int] = np.unique(self._shard_of[ids]).tolist()
        return found

    def begin(self, epoch: int, step: int) -> None:
        """Goes on behind a batch: where it is not the one that was to come, from there anew."""
        if self._steps and self._steps[0].at == (epoch, step):
            for shard in self._steps.popleft().shards:
                self._counts[shard] -= 1
                if not self._counts[shard]:
                    del self._counts[shard]
        else:
            self._steps.clear()
            self._counts.clear()
            self._following = self._step_after(epoch, step)

    def following(self) -> Step | None:
        """The step behind the last planned one; None where nothing has begun, or all shards are planned already."""
        if len(self._counts) == self._all or len(self._steps) == _LONGEST:
            return None
        return self._following

    def add(self, step: Step) -> None:
        """Plans the step that `following` gave."""
        self._steps.append(step)
        for shard in step.shards:
            self._counts[shard] = self._counts.get(shard, 0) + 1
        self._following = self._step_after(*step.at)

    def _step_after(self, epoch: int, step: int) -> Step:
        at = (epoch, step + 1) if step + 1 < len(self._order) else (epoch + 1, 0)
        return Step(at, self.shards_of(self._order.slice(*at, self._rank, self._world_size)[0]))
