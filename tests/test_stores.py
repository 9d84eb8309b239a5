"""What every store promises, held for each of them against a tree of the same images."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import pytest
import torch
from converted_sets import FOLD, as_ffcv_encodes, samples_of, write_tree

from loaders import Batch, Store, open_loader, open_store

pytest_plugins = ("converted_sets",)

KINDS = ("tree", "shards", "shards fold", "beton jpg", "beton jpg fold", "beton raw")


@dataclass(frozen=True)
class Case:
    """A store's place, and a tree of the images that it must hold in the same order."""

    path: Path
    split: str
    twin: Path
    keys: list[str]
    classes: tuple[str, ...]
    raw: bool = False

    def open(self) -> Store:
        return open_store(self.path, self.split)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind: str = request.param
    classes, samples = samples_of(tree, "train")
    ids = FOLD if kind.endswith("fold") else range(len(samples))
    split, keys = "fold1" if kind.endswith("fold") else "train", [samples[place].key for place in ids]
    if kind == "tree":
        return Case(tree, split, tree, [str(tree / "train" / f"{key}.JPEG") for key in keys], classes)
    if kind == "beton raw":
        path = request.getfixturevalue("raw_beton")
        return Case(path, split, tree, [f"train.beton[{place}]" for place in ids], ("0", "1", "2"), raw=True)
    if kind.startswith("beton jpg"):
        path = request.getfixturevalue("beton_set")
        samples = [as_ffcv_encodes(sample) for sample in samples]
        keys = [f"train.beton[{place}]" for place in ids]
    else:
        path = request.getfixturevalue("shards_set")
        keys = [f"train-{place // 17:06d}.tar:{samples[place].key}.jpg" for place in ids]
    twin = write_tree(tmp_path_factory.mktemp("twin"), "train", [samples[place] for place in ids])
    return Case(path, split, twin, keys, classes)


@pytest.fixture(scope="module")
def spawned() -> Iterator[Pool]:
    """A process that inherits nothing."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def checksum(store: Store, sample: int) -> int:
    data = store.read(sample)
    return zlib.crc32(data.tobytes() if isinstance(data, np.ndarray) else data)


def contents(store: Store) -> list[tuple[int, int, str]]:
    """Checksum, label and key of every sample."""
    return [(checksum(store, i), int(store.labels[i]), store.key(i)) for i in range(len(store))]


def expected(case: Case) -> list[tuple[int, int, str]]:
    samples = samples_of(case.twin, "train")[1]
    data = [sample.pixels.tobytes() if case.raw else sample.data for sample in samples]
    return [(zlib.crc32(d), s.label, key) for d, s, key in zip(data, samples, case.keys, strict=True)]


def test_many_samples_are_where_each_is_read(case: Case) -> None:
    store = case.open()
    ids = np.array([len(store) - 1, 0, 2, 2])
    located = store.locate(ids)
    if case.path == case.twin:
        assert located is None
        return
    assert located is not None
    assert len(located) == 4
    for place, sample in enumerate(ids.tolist()):
        expected = store.read(sample)
        data = ctypes.string_at(int(located.addresses[place]), int(located.lengths[place]))
        assert data == bytes(expected.tobytes())
        assert bytes(memoryview(located[place]).tobytes()) == data
        assert tuple(located.shapes[place]) == (expected.shape[:2] if case.raw else (0, 0))
    for outside in (-1, len(store)):
        with pytest.raises(IndexError):
            store.locate(np.array([0, outside]))


def test_it_holds_the_images_labels_and_keys_of_the_tree(case: Case) -> None:
    store = case.open()
    assert tuple(store.classes) == case.classes
    assert store.labels.dtype == np.int64
    assert len(store) == len(store.labels) == len(case.keys)
    assert contents(store) == expected(case)
    if case.raw:
        pixels = store.read(5)
        assert isinstance(pixels, np.ndarray)
        np.testing.assert_array_equal(pixels, samples_of(case.twin, "train")[1][5].pixels)


def test_many_threads_read_the_same(case: Case) -> None:
    store = case.open()  # none has mapped anything yet: all come to it at once
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(store)), 40)).tolist()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda sample: checksum(store, sample), order))
    wanted = [crc for crc, _, _ in expected(case)]
    assert found == [wanted[sample] for sample in order]


def test_a_fork_reads_what_its_parent_opened(case: Case) -> None:
    store = case.open()
    store.read(0)  # mapped before the fork; other shards are mapped after it
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(contents(store)))
    child.start()
    assert queue.get(timeout=60) == expected(case)
    child.join(60)
    assert contents(store) == expected(case)


def test_a_spawned_process_reads_the_same(case: Case, spawned: Pool) -> None:
    assert spawned.apply_async(contents, (case.open(),)).get(timeout=120) == expected(case)


def test_a_pickled_store_is_the_same_from_another_folder(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case.path.parent)
    store = open_store(case.path.name, case.split) if case.path.name != "tree" else case.open()
    store.read(0)
    pickled = pickle.dumps(store)
    monkeypatch.chdir("/")
    loaded = pickle.loads(pickled)
    assert contents(loaded) == expected(case)
    assert loaded.fingerprint == case.open().fingerprint
    if case.path.name != "tree":
        assert len(pickled) < 1000, "reopened by its path: no map and no index travels"


@pytest.mark.parametrize("beyond", [-1, None, 2**40])
def test_ids_outside_are_refused(case: Case, beyond: int | None) -> None:
    store = case.open()
    sample = len(store) if beyond is None else beyond
    for call in (store.read, store.key, lambda one: store.hint(np.array([0, one]))):
        with pytest.raises(IndexError, match=f"sample {sample} is outside 0 to {len(store) - 1}"):
            call(sample)


def test_a_hint_changes_nothing(case: Case) -> None:
    store = case.open()
    for samples in ([], [3], [4, 3, 3, 0], list(range(len(store)))):
        store.hint(np.array(samples, dtype=np.int64))
    assert contents(store) == expected(case)


def test_reading_leaves_no_handle_a_sample_and_locating_copies_nothing(case: Case) -> None:
    store = case.open()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    held = [store.read(i) for i in range(len(store))]
    assert len(os.listdir("/proc/self/fd")) - before <= 3, "a handle a shard at most"
    assert not any(np.frombuffer(data, np.uint8).flags.writeable for data in held)
    one, other = (store.locate(np.arange(len(store))) for _ in range(2))
    if one is None or other is None:
        assert case.path == case.twin, "a tree reads its files"
        return
    np.testing.assert_array_equal(one.addresses, other.addresses)
    assert one.lengths.tolist() == [memoryview(data).nbytes for data in held]


def loaded(path: Path, split: str, train: bool) -> list[Batch]:
    loader = open_loader(path, split, 16, train=train, size=48, seed=5)
    try:
        return list(loader.epoch(1))
    finally:
        loader.close()


@pytest.mark.parametrize("train", [True, False])
def test_its_batches_are_the_trees(case: Case, train: bool) -> None:
    batches, wanted = loaded(case.path, case.split, train), loaded(case.twin, "train", train)
    assert len(batches) == -(-len(case.keys) // 16)
    for one, other in zip(batches, wanted, strict=True):
        for name in Batch._fields:
            assert torch.equal(getattr(one, name), getattr(other, name)), name
