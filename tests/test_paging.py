"""Sets and memory: what is read ahead, what is given back, and that neither changes a batch."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from converted_sets import copy_of
from test_bad_samples import epoch_of, opened

from loaders import open_store
from loaders.mapped import MappedFile
from loaders.order import Order
from loaders.paging import Paging

pytest_plugins = ("converted_sets",)

PAGE = mmap.PAGESIZE
MEMORY = 10**9


class Told:
    """A store of samples of a megabyte that keeps what it is told."""

    def __init__(self, samples: int) -> None:
        self.samples, self.num_bytes = samples, samples * 10**6
        self.hints: list[np.ndarray] = []
        self.released: list[np.ndarray | None] = []

    def __len__(self) -> int:
        return self.samples

    def hint(self, samples: np.ndarray) -> None:
        self.hints.append(samples)

    def release(self, samples: np.ndarray | None = None) -> None:
        self.released.append(samples)


def paging(store: Told, *, shuffle: str = "global", rank: int = 0, world_size: int = 1, window: int = 64) -> Paging:
    order = Order(num_samples=len(store), global_batch=8, shuffle=shuffle, seed=3, chunk=16, window=window)
    return Paging(store, order, rank, world_size, MEMORY)  # type: ignore[arg-type]


def test_a_set_that_fits_is_hinted_only_while_disks_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = [0]
    monkeypatch.setattr("loaders.paging._waits", lambda: waits[0])
    store = Told(600)
    pages = paging(store)
    assert pages.fits
    assert not pages.reason
    for step in range(50):
        pages.before(0, step, np.arange(8))
    assert len(store.hints) == 32
    waits[0] += 1
    for step in range(50, 75):
        pages.before(0, step, np.arange(8))
    assert len(store.hints) == 32 + 25


def test_a_set_that_fits_leaves_the_process_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 128 MiB over what else is mapped, which may grow too."""
    mapped = [300 << 20]
    monkeypatch.setattr("loaders.paging._files_in_memory", lambda: mapped[0])
    store = Told(600)
    monkeypatch.setattr(
        store, "release", lambda: (store.released.append(None), mapped.append(mapped.pop() - (120 << 20)))
    )
    pages = paging(store)
    counts = []
    for _ in range(30):
        mapped[0] += 10 << 20
        pages.after(np.arange(8))
        counts.append(len(store.released))
    assert counts == [0] * 12 + [1] * 13 + [2] * 5


def test_a_real_set_leaves_this_process(raw_beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.paging._MAPPED_BYTES", 0)
    released: list[int] = []
    release = MappedFile.release

    def counted(file: MappedFile) -> None:
        before = resident(file.path)
        release(file)
        released.append(before)

    monkeypatch.setattr(MappedFile, "release", counted)
    epoch_of(opened(raw_beton, look_ahead=1))
    assert max(released) > 0
    store = open_store(raw_beton, "train")
    located = store.locate(np.arange(51))
    assert located is not None
    for address, length in zip(located.addresses.tolist(), located.lengths.tolist(), strict=True):
        ctypes.string_at(address, length)
    held = resident(raw_beton)
    store.release()
    assert resident(raw_beton) < held


def test_a_larger_one_is_hinted_always_and_given_back_after_use() -> None:
    store = Told(601)
    pages = paging(store)
    assert not pages.fits
    assert "0.6 GB do not fit in the 1.0 GB" in pages.reason
    for step in range(75):
        pages.before(0, step, np.full(8, step))
        pages.after(np.full(8, step))
    assert [int(ids[0]) for ids in store.hints] == list(range(75))
    assert [int(ids[0]) for ids in store.released if ids is not None] == list(range(75))


@pytest.mark.parametrize("world_size", [1, 2])
def test_windows_are_read_ahead_in_the_order_of_the_disk(world_size: int) -> None:
    """By all ranks together, every sample once, before its window begins, in runs as long as the chunks."""
    samples, window = 700, 64
    asked: dict[int, int] = {}
    needed: dict[int, int] = {}
    runs = 0
    for rank in range(world_size):
        store = Told(samples)
        pages = paging(store, shuffle="window", rank=rank, world_size=world_size, window=window)
        order = Order(num_samples=samples, global_batch=8, shuffle="window", seed=3, chunk=16, window=window)
        for step in range(len(order)):
            ids = order.slice(1, step, rank, world_size)[0]
            pages.before(1, step, ids)
            hinted = store.hints[-1]
            for sample in hinted[len(ids) :] if step < 8 else hinted:
                assert asked.setdefault(int(sample), step) == step
            if step < 8:
                np.testing.assert_array_equal(hinted[: len(ids)], ids)
            else:
                assert (np.diff(hinted) > 0).all()
                runs += int((np.diff(hinted) > 1).sum()) + 1 if len(hinted) else 0
            for sample in ids.tolist():
                needed.setdefault(sample, step)
    late = [sample for sample, step in needed.items() if step >= 8 and not step - 16 < asked[sample] < step]
    assert not late
    if world_size == 1:
        assert runs < 2 * samples / 8, "runs, not single samples"


def test_windows_that_do_not_fit_are_not_read_ahead() -> None:
    store = Told(5000)
    pages = paging(store, shuffle="window", window=400)
    ids = np.array([7, 3])
    pages.before(0, 0, ids)
    np.testing.assert_array_equal(store.hints[-1], ids)


def test_an_epoch_joined_in_its_middle_asks_for_its_own_window_first() -> None:
    store = Told(1000)
    pages = paging(store, shuffle="window")
    ids = np.arange(8)
    for step in (20, 21):
        pages.before(0, step, ids)
        assert store.hints[-1][:8].tolist() == ids.tolist()
    pages.before(0, 24, ids)
    assert (np.diff(store.hints[-1]) > 0).all()
    pages.before(1, 0, ids)
    assert store.hints[-1][:8].tolist() == ids.tolist()


def resident(path: Path) -> int:
    """Kilobytes of a file that count as this process's."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split(" ", 1)[0].count("-") == 1:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def cached(path: Path) -> np.ndarray:
    """Which pages of a file the system's cache holds, by mincore(2)."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pages = -(-len(mapped) // PAGE)
    found = (ctypes.c_ubyte * pages)()
    address = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), found)
    return np.frombuffer(found, dtype=np.uint8) & 1 == 1


def test_what_is_dropped_leaves_the_cache_and_others_do_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    far = 1024  # pages: more than the system keeps as one
    with path.open("wb") as written:
        for number in range(3):
            written.write(bytes([number + 1]) * far * PAGE)
        written.flush()
        os.fsync(written.fileno())  # what is not yet on disk cannot be dropped
        os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file = MappedFile(path, 3 * far * PAGE)
    starts = np.arange(3) * far * PAGE
    file.will_need(starts, starts + 8 * PAGE)
    places = range(8 * PAGE)
    assert all(file.view[start + place] == number + 1 for number, start in enumerate(starts) for place in places)
    assert all(cached(path)[number * far : number * far + 8].all() for number in range(3))
    file.drop(starts[:2] - [0, 1], starts[:2] + far * PAGE // 2)
    found = [cached(path)[number * far : number * far + 8] for number in range(3)]
    assert not found[0].any()
    assert not found[1].any()
    assert found[2].all()
    assert file.view[7] == 1, "it comes back when it is read"


@pytest.mark.parametrize("shuffle", ["global", "window"])
@pytest.mark.parametrize("form", ["shards_set", "beton_set"])
def test_batches_are_the_same_however_little_memory_there_is(
    form: str, shuffle: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(request.getfixturevalue(form), tmp_path / "copy")
    plenty = epoch_of(opened(copy, shuffle=shuffle))
    bytes_of_set = open_store(copy, "train").num_bytes
    assert bytes_of_set == sum(len(open_store(copy, "train").read(sample)) for sample in range(51))
    monkeypatch.setattr("loaders.paging.usable_memory", lambda: bytes_of_set)
    little = opened(copy, shuffle=shuffle)
    assert "images leave memory after use" in little.choice
    for one, other in zip(epoch_of(little), plenty, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in one._fields)
