"""What the loader does about samples that cannot be read or decoded, wherever that happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from converted_sets import copy_of
from PIL import Image

from loaders import Batch, CropPolicy, InputError, Loader, SampleError, draws, open_loader, open_store
from loaders.types import Store

pytest_plugins = ("converted_sets",)

SPLIT = 51


def opened(path: Path, **options: object) -> Loader:
    given = {"batch_size": 16, "train": True, "size": 32, "seed": 5, "num_threads": 2} | options
    return open_loader(path, "train", **given)


def epoch_of(loader: Loader, **options: object) -> list[Batch]:
    try:
        return list(loader.epoch(1, **options))
    finally:
        loader.close()


def damaged(tree: Path, to: Path, *names: str) -> Path:
    copy = shutil.copytree(tree, to)
    for name in names:
        file = copy / "train" / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return copy


def shown_by_pillow(path: Path, sample: int, *, draws_of: int) -> torch.Tensor:
    """A sample's file, cropped and mirrored as another sample's draws say."""
    crops, ids = CropPolicy(), np.array([draws_of])
    with Image.open(open_store(path, "train").key(sample)) as image:
        (top, left, height, width), *_ = crops.boxes(5, 1, ids, np.array([image.size[::-1]]), train=True).tolist()
        box = (left, top, left + width, top + height)
        shown = image.convert("RGB").crop(box).resize((32, 32), Image.Resampling.BILINEAR)
    pixels = np.asarray(shown)[:, ::-1] if draws.flips(5, 1, ids, crops.hflip)[0] else np.asarray(shown)
    return torch.from_numpy(pixels.copy())


def test_the_budget_replaces_counts_and_leaves_the_others_as_they_were(tree: Path, tmp_path: Path) -> None:
    copy = damaged(tree, tmp_path / "copy", "cat/cat_11.JPEG", "coffee/coffee_3.JPEG")
    keys = {open_store(copy, "train").key(place): place for place in range(SPLIT)}
    bad = {keys[str(copy / "train" / name)] for name in ("cat/cat_11.JPEG", "coffee/coffee_3.JPEG")}
    loader = opened(copy, max_bad=2 / SPLIT)
    found, expected = epoch_of(loader), epoch_of(opened(tree))
    assert {keys[key] for key in loader.bad} == bad
    assert all("truncated" in reason for reason in loader.bad.values())
    replaced = 0
    for one, other in zip(found, expected, strict=True):
        for place, sample in enumerate(other.ids.tolist()):
            if sample in bad:
                replaced += 1
                assert one.ids[place] == (sample + 1) % SPLIT
                assert not one.valid[place]
                assert one.labels[place] == open_store(copy, "train").labels[(sample + 1) % SPLIT]
                assert torch.equal(one.images[place], shown_by_pillow(copy, (sample + 1) % SPLIT, draws_of=sample))
            else:
                for name in Batch._fields:
                    assert torch.equal(getattr(one, name)[place], getattr(other, name)[place]), name
    assert replaced >= 2


def test_the_replacement_is_shown_under_the_draws_of_the_place(tree: Path, tmp_path: Path) -> None:
    """The same whatever the threads and ranks: its own decode at this place would give the same pixels."""
    copy = damaged(tree, tmp_path / "copy", "cat/cat_11.JPEG")
    whole = epoch_of(opened(copy, max_bad=1.0))
    for threads, look_ahead in ((1, 1), (4, 5)):
        again = epoch_of(opened(copy, max_bad=1.0, num_threads=threads, look_ahead=look_ahead))
        for one, other in zip(again, whole, strict=True):
            assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in Batch._fields)
    for rank in range(2):
        mine = epoch_of(opened(copy, max_bad=1.0, batch_size=8, rank=rank, world_size=2))
        for one, other in zip(mine, whole, strict=True):
            assert torch.equal(one.images, other.images[8 * rank : 8 * rank + 8])
            assert torch.equal(one.ids, other.ids[8 * rank : 8 * rank + 8])


def test_one_beyond_the_budget_ends_the_epoch_with_the_count(tree: Path, tmp_path: Path) -> None:
    copy = damaged(tree, tmp_path / "copy", "cat/cat_11.JPEG", "coffee/coffee_3.JPEG")
    loader = opened(copy, max_bad=1 / SPLIT)
    with pytest.raises(SampleError, match=r"2 samples cannot, where max_bad 0\.0196078 of 51 allows 1"):
        epoch_of(loader)
    assert len(loader.bad) == 1, "the one that was replaced"
    with pytest.raises(SampleError, match=r"(cat_11|coffee_3)\.JPEG .* or allow some by max_bad \(--max_bad\)\.$"):
        epoch_of(opened(copy))


def test_a_set_of_nothing_but_remains_ends_too(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    for file in (copy / "train").rglob("*.JPEG"):
        file.write_bytes(b"")
    with pytest.raises(SampleError, match="nor can those that would replace it"):
        epoch_of(opened(copy, max_bad=1.0))


def test_a_file_that_goes_while_it_is_needed_is_named_or_replaced(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    strict, lenient = opened(copy), opened(copy, max_bad=0.1)
    (copy / "train" / "cat" / "cat_5.JPEG").unlink()
    with pytest.raises(SampleError, match=r"cat_5\.JPEG cannot be decoded \(No such file"):
        epoch_of(strict)
    assert len(epoch_of(lenient)) == 4
    assert [Path(key).name for key in lenient.bad] == ["cat_5.JPEG"]


def test_a_shard_that_is_cut_while_it_is_read_is_named(
    shards_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.mapped._LOOK_S", 0.0)
    copy = copy_of(shards_set, tmp_path / "copy")
    loader = opened(copy)
    assert next(loader.epoch(0)) is not None
    shard = copy / "train-000001.tar"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(SampleError, match=r"train-000001\.tar.*was cut meanwhile"):
        epoch_of(loader)
    monkeypatch.setattr("loaders.mapped._LOOK_S", 1.0)
    lenient = opened(copy_of(shards_set, tmp_path / "other"), max_bad=0.5)
    os.truncate(tmp_path / "other" / shard.name, 20_000)
    assert len(epoch_of(lenient)) == 4
    assert 5 < len(lenient.bad) <= 17
    assert all("train-000001.tar" in key for key in lenient.bad)


def test_a_removed_shard_stays_readable(shards_set: Path, tmp_path: Path) -> None:
    copy = copy_of(shards_set, tmp_path / "copy")
    loader = opened(copy)
    first = list(loader.epoch(1))
    for shard in copy.glob("*.tar"):
        shard.unlink()
    for one, other in zip(epoch_of(loader), first, strict=True):
        assert torch.equal(one.images, other.images)


def test_a_flipped_byte_is_found_by_its_checksum_when_asked_for(shards_set: Path, tmp_path: Path) -> None:
    """In the middle of a scan, where no decoder needs to notice."""
    copy = copy_of(shards_set, tmp_path / "copy")
    store = open_store(copy, "train")
    place = store.offset(20) + len(store.read(20)) // 2  # type: ignore[attr-defined]
    shard = copy / store.key(20).partition(":")[0]
    with shard.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0x10]))
    assert len(epoch_of(opened(copy))) == 4
    with pytest.raises(SampleError, match=r"its CRC-32 is [0-9a-f]{8} where the index says"):
        epoch_of(opened(copy, verify=True))
    lenient = opened(copy, verify=True, max_bad=0.05)
    assert len(epoch_of(lenient)) == 4
    assert list(lenient.bad) == [store.key(20)]
    whole = zip(epoch_of(opened(shards_set, verify=True)), epoch_of(opened(shards_set)), strict=True)
    assert all(torch.equal(one.images, other.images) for one, other in whole)


def test_checksums_that_are_not_there_are_refused(tree: Path) -> None:
    before = len(os.listdir("/proc/self/task"))  # the library's threads too
    with pytest.raises(InputError, match="no checksums") as held:
        opened(tree, verify=True)
    assert len(os.listdir("/proc/self/task")) == before, held
    with pytest.raises(InputError, match=r"max_bad -0\.1"):
        opened(tree, max_bad=-0.1)


def test_the_size_may_change_with_every_epoch(tree: Path) -> None:
    loader = opened(tree)
    sizes = (32, 48, 16, 32)
    found = [list(loader.epoch(epoch, size=size)) for epoch, size in enumerate(sizes)]
    both = loader.epoch(0, size=24), loader.epoch(0, size=40)
    mixed = [tuple(next(each).images.shape[1:]) for _ in range(3) for each in both]
    assert mixed == [(24, 24, 3), (40, 40, 3)] * 3
    loader.close()
    for epoch, (size, batches) in enumerate(zip(sizes, found, strict=True)):
        other = opened(tree, size=size)
        for one, expected in zip(batches, other.epoch(epoch), strict=True):
            assert torch.equal(one.images, expected.images)
        other.close()
    with pytest.raises(InputError, match="size 0"):
        loader.epoch(0, size=0)


ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background inherits as ignored
from loaders import open_loader
loader = open_loader(sys.argv[1], "train", 8, train=True, size=32)
print("ready", flush=True)
for epoch in range(10**9):
    for batch in loader.epoch(epoch):
        pass
"""


def test_an_interrupt_ends_the_process_at_once(tree: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, tree], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


def test_a_thousand_dropped_iterators_leave_neither_threads_nor_files_nor_memory(tree: Path) -> None:
    loader = opened(tree, size=8, batch_size=4)

    def dropped(count: int) -> tuple[int, int, int]:
        for epoch in range(count):
            next(loader.epoch(epoch))
        deadline = time.monotonic() + 20
        while threading.active_count() > before + 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return threading.active_count(), len(os.listdir("/proc/self/fd")), resident

    before = threading.active_count()
    threads, files, memory = dropped(100)
    after = dropped(1000)
    loader.close()
    assert after[0] <= threads
    assert after[1] <= files
    assert after[2] - memory < 32 * 2**20


def test_a_store_of_another_kind_needs_no_more_than_the_protocol(tree: Path) -> None:
    store: Store = open_store(tree, "train")
    store.verify(0)
    assert not store.has_checksums
    with pytest.raises(IndexError):
        store.verify(SPLIT)
