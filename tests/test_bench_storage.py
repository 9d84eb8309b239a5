"""The bench of reading: what it calls cold was read from the disk, and what it says of a set that stayed in memory."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from conversions import convert

from bench import storage as bench_storage
from bench.data import files_of, leave_cache
from bench.made_set import make_tree
from loaders import InputError, open_store

pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("results")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("made") / "photographs", images=56)


def converted(tree: Path, out: Path) -> Path:
    assert convert(tree, out) == 0
    return out


def written(results: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Rows by set and what was measured."""
    with (results / "storage.csv").open() as file:
        return {(row["options"].split()[0], row["what"]): row for row in csv.DictReader(file)}


def read_from_disks() -> int:
    """Bytes that this process has had fetched from a disk, as the system counts them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def check_that_the_system_forgets(folder: Path) -> None:
    """Skips where it does not, as in a file system that is memory."""
    probe = folder / "probe"
    probe.write_bytes(bytes(1 << 20))
    with probe.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = read_from_disks()
    probe.read_bytes()
    if read_from_disks() - before < 1 << 19:
        pytest.skip(f"the file system of {folder} keeps its files in memory")


def test_what_is_called_cold_is_read_from_the_disk(
    made: Path, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_that_the_system_forgets(tmp_path)
    size = sum(file.stat().st_size for file in files_of(made))
    before = read_from_disks()
    bench_storage.storage(data_dir=made, rounds=2, seconds=0.01, workers=2)
    cold = {key: float(row["cached"]) for key, row in written(results).items() if key[1].startswith("cold")}
    assert [key[0] for key in cold] == ["set=tree", "set=tree", "set=shards", "set=shards"]
    assert all(share < 0.1 for share in cold.values())
    # Of both forms, in order and at random, once before the rounds and in each.
    assert read_from_disks() - before > 0.9 * size * 2 * 2 * 3
    assert "not cold" not in capsys.readouterr().out


def test_what_was_just_written_leaves_the_cache_too(tmp_path: Path) -> None:
    check_that_the_system_forgets(tmp_path)
    path = tmp_path / "written"
    path.write_bytes(os.urandom(8 << 20))
    leave_cache(path)
    assert bench_storage.share_in_memory([path]) < 0.1


def test_a_set_that_stays_in_memory_is_not_called_cold(
    made: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_storage, "leave_cache", lambda _: None)
    for file in files_of(made):
        file.read_bytes()
    bench_storage.storage(data_dir=made, rounds=1, seconds=0.01, workers=1)
    cold = {key: float(row["cached"]) for key, row in written(results).items() if key[1].startswith("cold")}
    assert all(share > 0.99 for share in cold.values())
    assert capsys.readouterr().out.count("not cold: 100% stayed in memory") == 4


def test_a_store_lets_go_of_what_was_read_one_by_one(made: Path, tmp_path: Path) -> None:
    """Pages that a process has mapped stay in the cache, whatever the system is asked."""
    check_that_the_system_forgets(tmp_path)
    shards = converted(made, tmp_path / "shards")
    store, files = open_store(shards, "train"), sorted(shards.glob("train-*.tar"))
    for sample in range(len(store)):
        store.read(sample)
    store.release()
    leave_cache(shards)
    assert bench_storage.share_in_memory(files) < 0.1
    before = read_from_disks()
    size = sum(len(file.read_bytes()) for file in files)
    assert read_from_disks() - before > 0.9 * size


def test_a_converted_set_is_measured_as_it_is(tree: Path, tmp_path: Path, results: Path) -> None:
    path = converted(tree, tmp_path / "converted")
    before = sorted(files_of(path))
    bench_storage.storage(data_dir=path, rounds=1, seconds=0.01, workers=1)
    found = written(results)
    assert {key[0] for key in found} == {"set=shards"}
    assert all("data=converted " in row["options"] for row in found.values())
    store = open_store(path, "train")
    mean = np.mean([len(store.read(sample)) for sample in range(len(store))])
    assert f"kb={mean / 1e3:.1f} " in found["set=shards", "warm, in order"]["options"]
    assert sorted(files_of(path)) == before
    with pytest.raises(InputError, match="is a file, no folder"):
        bench_storage.storage(data_dir=before[0])
