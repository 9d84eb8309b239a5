"""Ranks meet their own start's ranks alone, whatever those of former starts have left in torchrun's store."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import Store

from twistnet.meeting import meet

WORLD_SIZE = 3


def met(store: Store, world_size: int = WORLD_SIZE) -> list[Store]:
    """What each rank of one start is given; they come one after another, the first rank last."""
    arrived = [threading.Event() for _ in range(world_size)]

    def come(rank: int) -> Store:
        if rank + 1 < world_size:
            arrived[rank + 1].wait()
        arrived[rank].set()
        return meet(store, rank, world_size, limit_s=60)

    with ThreadPoolExecutor(world_size) as threads:
        return list(threads.map(come, range(world_size)))


def test_every_start_has_a_part_of_its_own() -> None:
    store = HashStore()
    store.set_timeout(timedelta(seconds=60))
    for start in range(5):
        parts = met(store, world_size=1 + (start + 2) % WORLD_SIZE)
        assert not any(part.check(["address"]) for part in parts), "nothing of a former start"
        parts[-1].set("address", str(start))
        assert {part.get("address").decode() for part in parts} == {str(start)}


def test_a_rank_that_has_ended_is_not_waited_for_nor_taken_for_another() -> None:
    """Rank 0 of a start that came to nothing has read what rank 1 of it said: its successor says something else."""
    store = HashStore()
    with pytest.raises(TimeoutError, match=r"the others have not come within 0\.2 s"):
        meet(store, 1, 2, limit_s=0.2)
    with pytest.raises(TimeoutError):
        meet(store, 0, 2, limit_s=0.2)
    left, _ = json.loads(store.get("twistnet/round"))
    one, other = met(store, 2)
    one.set("address", "new")
    assert other.get("address") == b"new"
    assert json.loads(store.get("twistnet/round"))[0] != left
