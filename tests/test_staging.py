"""A staged set delivers what the set itself does, in the same order, within its bound; else it is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from staging_sets import (
    FOLD,
    Server,
    checksums,
    delivered,
    opened,
    shard_of,
    sizes,
    staged,
    wait_until,
)

from loaders import InputError
from loaders.files import take_lock
from loaders.loader import BatchLoader
from loaders.order import Order
from loaders.sources import Source
from loaders.staged import open_staged
from loaders.staging_needs import most_at_once

pytest_plugins = ("staging_sets",)


def needed(folder: Path, **options: Any) -> int:
    """Bytes that a set with small windows needs at once, as the refusal of too few says."""
    with pytest.raises(InputError) as caught:
        opened(folder, **{"shuffle": "window", "stage_bytes": 1, **options})
    said = re.search(r"allow ([\d,]+) bytes", str(caught.value))
    assert said
    return int(said[1].replace(",", ""))


@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_batches_are_those_of_the_set_itself(many_shards: Path, tmp_path: Path, shuffle: str) -> None:
    direct = delivered(opened(many_shards, shuffle=shuffle), epochs=2)
    assert delivered(opened(many_shards, shuffle=shuffle, stage=tmp_path / "stage"), epochs=2) == direct
    assert staged(tmp_path / "stage") == checksums(many_shards)


@pytest.mark.parametrize("split", ["val", "fold1"])
def test_other_splits_and_subsets_are_staged_too(many_shards: Path, tmp_path: Path, split: str) -> None:
    direct = delivered(opened(many_shards, split, 4))
    assert delivered(opened(many_shards, split, 4, stage=tmp_path)) == direct
    parts = {f"train-{shard:06d}.tar" for shard in shard_of(many_shards)[FOLD]}
    assert staged(tmp_path).keys() == (parts if split == "fold1" else {"val-000000.tar", "val-000001.tar"})


@pytest.mark.usefixtures("small_windows")
def test_repeated_augmentation_is_staged_in_its_order(many_shards: Path, tmp_path: Path) -> None:
    options = {"shuffle": "window", "repeats": 3, "batch_size": 9}
    bound = needed(many_shards, stage=tmp_path, **options)
    direct = delivered(opened(many_shards, **options), epochs=4)
    assert delivered(opened(many_shards, stage=tmp_path, stage_bytes=bound, **options), epochs=4) == direct


@pytest.mark.usefixtures("small_windows")
def test_under_a_bound_every_sample_comes_once_an_epoch(many_shards: Path, tmp_path: Path) -> None:
    bound = needed(many_shards, stage=tmp_path / "stage")
    assert bound < sizes(many_shards) / 2
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            taken = {}
            with take_lock(tmp_path / "stage" / ".lock", wait=True):  # room is made under it, and nothing else
                for path in (tmp_path / "stage").glob("*/shards/*[rp]"):  # shards, and those that are being copied
                    if not path.name.startswith(".."):
                        with contextlib.suppress(FileNotFoundError):
                            taken[path.name.removeprefix(".")[:16]] = path.stat().st_size
            most = max(most, sum(taken.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        loader = opened(many_shards, shuffle="window", stage=tmp_path / "stage", stage_bytes=bound)
        batches = delivered(loader, epochs=2)
    finally:
        done.set()
        watcher.join()
    assert batches == delivered(opened(many_shards, shuffle="window"), epochs=2)
    for epoch in (batches[:15], batches[15:]):
        assert sorted(sample for ids, _, _ in epoch for sample in ids) == list(range(120))
    assert bound / 2 < most <= bound


def test_the_bytes_are_those_that_tarfile_and_webdataset_find(many_shards: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    found = open_staged(many_shards, "train", tmp_path)
    read = [bytes(found.store.read(sample)) for sample in range(len(found.store))]
    found.staging.close()
    by_tarfile = []
    for path in sorted(many_shards.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            by_tarfile += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    copies = sorted(map(str, tmp_path.glob("*/shards/train-*.tar")))
    by_webdataset = [sample["jpg"] for sample in webdataset.WebDataset(copies, shardshuffle=False)]
    assert read == by_tarfile == by_webdataset


@pytest.mark.usefixtures("small_windows")
def test_shards_come_in_the_order_in_which_they_are_needed(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first windows first, at the end of an epoch those of the next one's beginning."""
    asked: list[str] = []
    copy = Source.copy

    def noted(self: Source, entry: Any, to: io.BytesIO, stop: threading.Event) -> None:
        asked.append(entry.name)
        copy(self, entry, to, stop)

    monkeypatch.setattr(Source, "copy", noted)
    monkeypatch.setattr("loaders.staging._COPIES", 1)
    loader = opened(many_shards, shuffle="window", stage=tmp_path)
    assert isinstance(loader, BatchLoader)
    order, shards, first = loader.plan.order, shard_of(many_shards), []
    for step in range(len(order)):
        first += [shard for shard in np.unique(shards[order.batch(0, step)[0]]) if shard not in first]
    delivered(loader)
    names = [name for name in asked if name.endswith(".tar")]
    assert names == [f"train-{shard:06d}.tar" for shard in first]


@pytest.mark.usefixtures("small_windows")
def test_the_next_epochs_first_shards_are_brought_before_it_begins(many_shards: Path, tmp_path: Path) -> None:
    bound = needed(many_shards, stage=tmp_path)
    with opened(many_shards, shuffle="window", stage=tmp_path, stage_bytes=bound) as loader:
        assert isinstance(loader, BatchLoader)
        for _ in loader.epoch(0):
            pass
        ids = loader.plan.order.batch(1, 0)[0]
        wanted = {f"train-{shard:06d}.tar" for shard in shard_of(many_shards)[ids]}
        wait_until(lambda: wanted <= {path.name for path in tmp_path.glob("*/shards/train-*.tar")})


def test_what_is_there_and_whole_is_used_again(many_shards: Path, tmp_path: Path) -> None:
    stage, source = tmp_path / "stage", tmp_path / "set"
    shutil.copytree(many_shards, source)
    first = delivered(opened(source, stage=stage))
    for path in source.glob("train-*.tar"):
        path.unlink()
    assert delivered(opened(source, stage=stage)) == first


@pytest.mark.parametrize("verify", [False, True])
def test_what_was_changed_since_is_copied_again(many_shards: Path, tmp_path: Path, verify: bool) -> None:
    direct = delivered(opened(many_shards, stage=tmp_path))
    (changed,) = tmp_path.glob("*/shards/train-000004.tar")
    status = changed.stat()
    data = bytearray(changed.read_bytes())
    data[700] ^= 1
    changed.write_bytes(data)
    (cut,) = tmp_path.glob("*/shards/train-000005.tar")
    cut.write_bytes(b"")
    if verify:  # else only a new time gives it away
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert delivered(opened(many_shards, stage=tmp_path, verify=verify)) == direct
    assert staged(tmp_path) == checksums(many_shards)


@pytest.mark.usefixtures("small_windows")
def test_two_sets_in_one_folder_do_not_mix(many_shards: Path, tmp_path: Path) -> None:
    """The names of their shards are the same; what the other one has left makes room."""
    other = tmp_path / "other"
    shutil.copytree(many_shards, other)
    values = json.loads((other / "manifest.json").read_text())
    values["classes"] = [f"another {name}" for name in values["classes"]]
    (other / "manifest.json").write_text(json.dumps(values))
    stage, bound = tmp_path / "stage", needed(many_shards, stage=tmp_path / "stage")
    for folder in (many_shards, other, many_shards):
        loader = opened(folder, shuffle="window", stage=stage, stage_bytes=bound)
        assert loader.classes[0].startswith("another") == (folder == other)
        assert delivered(loader) == delivered(opened(folder, shuffle="window"))
        assert sum(path.stat().st_size for path in stage.glob("*/shards/*.tar")) <= bound
    assert len(list(stage.glob("*/manifest.json"))) == 2


def test_a_set_at_a_url_is_read(many_shards: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(many_shards) + "/", "/bucket/set/", recursive=True)
    try:
        direct = delivered(opened(many_shards))
        assert delivered(opened("memory://bucket/set", stage=tmp_path)) == direct
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_set_on_a_web_server_is_read(many_shards: Path, tmp_path: Path, server: Server) -> None:
    direct = delivered(opened(many_shards))
    assert delivered(opened(server.url, stage=tmp_path)) == direct
    assert sorted(set(server.asked)) == sorted(server.asked), "each file was asked for once"


def test_a_store_that_is_staged_can_be_pickled(many_shards: Path, tmp_path: Path) -> None:
    found = open_staged(many_shards, "fold1", tmp_path)
    again = pickle.loads(pickle.dumps(found.store))
    assert [bytes(again.read(i)) for i in range(3)] == [bytes(found.store.read(i)) for i in range(3)]
    found.staging.close()


def test_waiting_for_shards_is_a_stage_of_its_own(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Source.copy

    def slowly(*arguments: Any) -> None:
        time.sleep(0.05)
        copy(*arguments)

    monkeypatch.setattr(Source, "copy", slowly)
    with opened(many_shards, stage=tmp_path) as loader:
        next(loader.epoch(0))
        assert loader.seconds()["stage"] > 0.05
        assert loader.choice.startswith(f"store shards (staged in {tmp_path})")


def test_a_global_shuffle_needs_the_whole_set(many_shards: Path, tmp_path: Path) -> None:
    whole = sizes(many_shards)
    with pytest.raises(InputError, match=rf"allow {whole:,} bytes \(--stage_gb [\d.]+\), or take --set shuffle=window"):
        opened(many_shards, stage=tmp_path, stage_bytes=whole - 1)
    delivered(opened(many_shards, stage=tmp_path, stage_bytes=whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "memory://bucket/set"}, "memory://bucket/set is a URL, which is read by way of .* --stage FOLDER"),
        ({"path": "s3://who:secret@bucket/set"}, r"^s3://bucket/set is a URL"),
        ({"path": "nowhere://bucket", "stage": "stage"}, "nowhere://bucket is no URL that fsspec knows"),
        (
            {"path": "memory://nothing", "stage": "stage"},
            "memory://nothing/manifest.json cannot be read .*FileNot",
        ),
        ({"path": "tree", "stage": "stage"}, "tree is no converted set, which is what can be staged"),
        ({"store": "beton", "stage": "stage"}, "store 'beton' cannot be staged, which shards can: take shards or auto"),
        ({"stage_bytes": 10}, "stage_bytes 10 bounds a staging folder: name it with stage"),
        ({"stage_bytes": 0, "stage": "stage"}, "a staging folder of 0 bytes is too small"),
        ({"stage": "file"}, "file cannot be staged in"),
        ({"split": "fold7", "stage": "stage"}, "has no split 'fold7': it has train, val, fold1"),
    ],
)
def test_what_cannot_be_staged_is_refused(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=message):
        opened(**{"path": many_shards, **options})


def test_the_set_itself_is_no_staging_folder(many_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(many_shards)
    with pytest.raises(InputError, match="is the set itself: stage in another folder"):
        opened(many_shards, stage=tmp_path / "link")


def test_needs_are_never_less_than_those_of_a_batch() -> None:
    rng = np.random.default_rng(0)
    for trial in range(40):
        samples, shards = int(rng.integers(20, 300)), int(rng.integers(2, 30))
        repeats = int(rng.integers(1, 4))
        order = Order(
            num_samples=samples,
            global_batch=int(rng.integers(repeats, 18)),
            shuffle=("window", "none", "global")[trial % 3],
            chunk=int(rng.integers(1, 12)),
            window=int(rng.integers(4, 60)),
            repeats=repeats,
            seed=trial,
        )
        shard_of, size = np.sort(rng.integers(0, shards, samples)), rng.integers(1, 100, shards)
        most = max(
            int(size[np.unique(shard_of[order.batch(epoch, step)[0]])].sum())
            for epoch in range(7)
            for step in range(len(order))
        )
        assert most <= most_at_once(order, shard_of, size) <= size.sum()


@pytest.mark.usefixtures("small_windows")
def test_training_and_validation_take_turns_within_a_bound(many_shards: Path, tmp_path: Path) -> None:
    """Neither fits beside what the other one has brought for its next epoch."""
    bound = needed(many_shards, stage=tmp_path)
    options = {"stage": tmp_path, "stage_bytes": bound}
    with opened(many_shards, shuffle="window", **options) as train, opened(many_shards, "val", 4, **options) as val:
        for epoch in range(3):
            assert sum(int(batch.valid.sum()) for batch in train.epoch(epoch)) == 120
            assert sum(int(batch.valid.sum()) for batch in val.epoch(0)) == 6
    assert sizes(tmp_path, "*/shards/*.tar") <= bound


@pytest.mark.usefixtures("small_windows")
def test_epochs_that_are_left_early_give_their_shards_free(many_shards: Path, tmp_path: Path) -> None:
    bound = needed(many_shards, stage=tmp_path)
    direct = delivered(opened(many_shards, shuffle="window"))
    with opened(many_shards, shuffle="window", stage=tmp_path, stage_bytes=bound) as loader:
        for start in (0, 9, 3, 12, 0):
            batches = loader.epoch(0, start)
            assert next(batches).ids.tolist() == direct[start][0]
        left = loader.epoch(0, 14)
        assert [batch.ids.tolist() for batch in loader.epoch(0)] == [ids for ids, _, _ in direct]
        assert next(left).ids.tolist() == direct[14][0], "two epochs at once"


def test_a_thread_that_dies_is_told_to_who_waits(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.staging.Staging._tidy", lambda _: 1 // 0)
    with (
        opened(many_shards, stage=tmp_path) as loader,
        pytest.raises(InputError, match=r"staging has ended .ZeroDivisionError"),
    ):
        next(loader.epoch(0))


def test_a_batch_that_can_never_have_all_its_shards_is_refused(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.staging.most_at_once", lambda *_: 0)
    with (
        opened(many_shards, stage=tmp_path, stage_bytes=100_000) as loader,
        pytest.raises(InputError, match=r"batch 0 of epoch 0 needs [\d,]+ bytes .* 100,000 are allowed"),
    ):
        next(loader.epoch(0))
