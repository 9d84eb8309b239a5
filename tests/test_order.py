"""The order against its definition: partitions over ranks, every id once, and independence of what must not count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.errors import InputError
from loaders.order import Order

SHUFFLES = ["global", "window", "none"]


def order(n: int, batch: int, shuffle: str = "global", **kwargs: int) -> Order:
    return Order(num_samples=n, global_batch=batch, shuffle=shuffle, **kwargs)


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n", [1, 47, 240, 1000])
def test_slices_of_all_ranks_in_order_are_the_global_batch(shuffle: str, world_size: int, n: int) -> None:
    whole = order(n, 48, shuffle, seed=7, chunk=16, window=100)
    for step in range(len(whole)):
        ids, valid = whole.batch(2, step)
        parts = [whole.slice(2, step, rank, world_size) for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), ids)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), valid)
        assert {len(part[0]) for part in parts} == {48 // world_size}


@given(
    n=st.integers(1, 700),
    batch=st.integers(1, 300),
    shuffle=st.sampled_from(SHUFFLES),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 1000),
    chunk=st.integers(1, 90),
    window=st.integers(1, 800),
)
def test_every_id_counts_once_an_epoch(
    n: int, batch: int, shuffle: str, seed: int, epoch: int, chunk: int, window: int
) -> None:
    whole = order(n, batch, shuffle, seed=seed, chunk=chunk, window=window)
    steps = [whole.batch(epoch, step) for step in range(len(whole))]
    assert sorted(np.concatenate([ids[valid] for ids, valid in steps])) == list(range(n))
    assert all(valid.all() for _, valid in steps[:-1])
    assert all(len(ids) == batch for ids, _ in steps)


@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_epochs_and_seeds_differ_and_do_not_add_up(shuffle: str) -> None:
    def ids(seed: int, epoch: int) -> list[int]:
        return list(order(500, 500, shuffle, seed=seed, chunk=10, window=200).batch(epoch, 0)[0])

    orders = {tuple(ids(seed, epoch)) for seed in range(6) for epoch in range(6)}
    assert len(orders) == 36


def test_global_shuffle_is_uniform() -> None:
    counts = np.zeros((6, 6))
    for seed in range(3000):
        ids, _ = order(6, 6, seed=seed).batch(0, 0)
        counts[np.arange(6), ids] += 1
    # Chi-square with 25 degrees of freedom: 52.6 is its 0.999 quantile.
    assert ((counts - 500) ** 2 / 500).sum() < 52.6


def test_window_shuffle_reads_few_chunks_at_a_time_but_mixes_them() -> None:
    whole = order(100_000, 1000, "window", seed=1, chunk=100, window=2000)
    for step in range(len(whole)):
        ids, _ = whole.batch(0, step)
        chunks = len(np.unique(ids // 100))
        assert 12 <= chunks <= 21, "a batch comes from one window of 20 chunks, and from most of them"


def test_a_batch_needs_no_other_batch() -> None:
    forward = [order(1000, 64, "window", chunk=32, window=256).batch(3, step)[0] for step in range(16)]
    lone = order(1000, 64, "window", chunk=32, window=256).batch(3, 11)[0]
    np.testing.assert_array_equal(lone, forward[11])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "batch": 4}, "0 samples"),
        ({"n": 4, "batch": 0}, "batch of 0"),
        ({"n": 4, "batch": 4, "shuffle": "quasi"}, "'quasi'"),
        ({"n": 4, "batch": 4, "seed": -1}, "seed -1"),
    ],
)
def test_impossible_orders_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        order(**arguments)


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (2**32, 0), (0, 25), (0, -1)])
def test_batches_that_do_not_exist_are_refused(epoch: int, step: int) -> None:
    with pytest.raises(InputError, match="out"):
        order(100, 4).batch(epoch, step)


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="10 does not divide over 4"):
        order(100, 10).slice(0, 0, 1, 4)


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("n", "batch", "repeats"), [(1000, 48, 3), (47, 12, 2), (240, 60, 4), (301, 24, 3), (7, 6, 6)])
def test_repeats_are_copies_with_keys_of_their_own(shuffle: str, n: int, batch: int, repeats: int) -> None:
    whole = order(n, batch, shuffle, seed=5, chunk=16, window=100, repeats=repeats)
    seen, keys = [], set()
    for epoch in range(2 * repeats, 3 * repeats):  # those that share a permutation
        this = []
        for step in range(len(whole)):
            ids, valid, drawn = whole.slice(epoch, step, 0, 1)
            assert len(set(drawn[valid])) == valid.sum(), "no draw twice"
            np.testing.assert_array_equal(drawn % n, ids)
            distinct = batch // repeats
            assert len(set(ids[:distinct][valid[:distinct]])) == valid[:distinct].sum(), (
                "copies are far from each other"
            )
            this += ids[valid].tolist()
            keys |= {(epoch, key) for key in drawn[valid].tolist()}
        assert set(np.unique(this, return_counts=True)[1]) == {repeats}
        seen += this
    assert sorted(seen) == sorted(list(range(n)) * repeats), "the epochs are the whole set"
    assert len(keys) == n * repeats


def test_repeats_beyond_the_batch_or_the_set_are_refused() -> None:
    assert len(order(100, 16, repeats=3)) == 6  # 34 samples, 6 of them a batch
    for n, batch, repeats in ((100, 4, 5), (3, 8, 4), (2**31, 8, 3), (10, 10, 0)):
        with pytest.raises(InputError, match=f"^{repeats} repeats of {n} samples"):
            order(n, batch, repeats=repeats)


def test_slices_of_repeats_are_the_batch() -> None:
    whole = order(100, 24, repeats=3)
    ids, valid, keys = whole.slice(1, 0, 0, 1)
    parts = [whole.slice(1, 0, rank, 4) for rank in range(4)]
    for place, expected in enumerate((ids, valid, keys)):
        np.testing.assert_array_equal(np.concatenate([part[place] for part in parts]), expected)
