"""Where the ranks of one start meet, apart from the ranks of the starts before.

torchrun keeps one store over all restarts, with all that former ranks have left there under the same names: a rank that
is early would take the address of one that has ended for its successor's, and wait for it. So the ranks agree on a name
that no start before has had, and on keys below it.

    rank 1, 2, ...                      rank 0
    hello/<rank> = a token of its own   reads all of them, and once more where one has changed
    reads until its token is there      round = the new name, and the tokens
    <name>/<rank> = here                reads until all are here
"""

from __future__ import annotations

import json
import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store

LIMIT_S = 600.0
_POLL_S = 0.02


def meet(store: Store, rank: int, world_size: int, limit_s: float = LIMIT_S) -> Store:
    """The part of a store that belongs to this start alone; all ranks call this.

    Args:
        store: which all ranks reach.
        rank: of this process.
        world_size: ranks of this start.
        limit_s: seconds to wait for the others.

    Raises:
        TimeoutError: the others have not come in time.
    """
    store = PrefixStore("twistnet", store)
    end = time.monotonic() + limit_s
    name = _gather(store, world_size, end) if rank == 0 else _follow(store, rank, end)
    if name is None:
        raise TimeoutError(f"the others have not come within {limit_s:g} s")
    return PrefixStore(name, store)


def _gather(store: Store, world_size: int, end: float) -> str | None:
    name, others = uuid.uuid4().hex, range(1, world_size)
    told: dict[int, str] = {}
    while time.monotonic() < end:
        if store.check([_hello(rank) for rank in others]):
            tokens = {rank: store.get(_hello(rank)).decode() for rank in others}
            if tokens != told:
                store.set("round", json.dumps([name, tokens]))
                told = tokens
            if store.check([f"{name}/{rank}" for rank in others]):
                return name
        time.sleep(_POLL_S)
    return None


def _follow(store: Store, rank: int, end: float) -> str | None:
    token = uuid.uuid4().hex
    store.set(_hello(rank), token)
    while time.monotonic() < end:
        if store.check(["round"]):
            name, tokens = json.loads(store.get("round"))
            if tokens.get(str(rank)) == token:
                store.set(f"{name}/{rank}", "here")
                return str(name)
        time.sleep(_POLL_S)
    return None


def _hello(rank: int) -> str:
    return f"hello/{rank}"
