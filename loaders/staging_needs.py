"""Which shards the batches of an order need, and how many bytes of them at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loaders.order import Order

_Ints = npt.NDArray[np.int64]
# What is counted beforehand: that many epochs, of a set with more than ImageNet's 20 windows as many fewer.
_EPOCHS, _WINDOWS = 600, 12_000


def most_at_once(order: Order, shard_of: _Ints, sizes: _Ints) -> int:
    """Bytes of the shards that a batch of all ranks may need at once.

    With a window shuffle these are the shards of all windows that a batch touches, two where it is no larger than a
    window: each batch of a window needs most of the window's shards.

    Args:
        order: of the samples.
        shard_of: (N,) the shard that each sample lies in.
        sizes: (S,) of the shards, in bytes.
    """
    windows = -(-order.num_samples // order.window)
    together = -(-order.global_batch // order.window) + 1
    if order.shuffle == "global" or (order.shuffle == "window" and windows <= together):
        return int(sizes[np.unique(shard_of)].sum())
    if order.shuffle == "none":
        batches = (order.batch(epoch, step)[0] for epoch in range(order.repeats) for step in range(len(order)))
        return max(int(sizes[np.unique(shard_of[ids])].sum()) for ids in batches)
    holds = np.zeros((-(-order.num_samples // order.chunk), len(sizes)), dtype=np.bool_)  # chunk, shard
    holds[np.arange(order.num_samples) // order.chunk, shard_of] = True
    most = 0
    for epoch in range(min(_EPOCHS, -(-_WINDOWS // windows))):
        cycle, part = divmod(epoch, order.repeats)
        neighbours = [np.arange(first, first + together) for first in range(windows - together + 1)] if not part else []
        for positions in (
            *(each * order.window for each in neighbours),
            order.positions(epoch, len(order) - 1),  # the last batch is filled from the beginning of the epoch
        ):
            most = max(most, int(sizes[holds[order.chunks(cycle, positions)].any(axis=0)].sum()))
    return most
