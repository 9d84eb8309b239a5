"""The shards of a converted set: keys, checksums, subsets, and what is refused before anything is read."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from converted_sets import ROW, Sample, copy_of, entry, samples_of, write_index, write_manifest, write_shards

from loaders import InputError, SampleError, open_store
from loaders.mapped import MappedFile
from loaders.shards import ShardStore, open_shards
from loaders.subset import Subset

pytest_plugins = ("converted_sets",)


def opened(folder: Path, split: str = "train") -> ShardStore:
    store = open_shards(folder, split)
    assert isinstance(store, ShardStore)
    return store


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    file = folder / "manifest.json"
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))
    return folder


def edit_index(folder: Path, edit: Callable[[np.ndarray], np.ndarray | None]) -> Path:
    """Another index for train, which the manifest agrees with."""
    rows = np.load(folder / "train.index.npy")
    changed = edit(rows)
    index = write_index(folder, "train", rows if changed is None else changed)
    return edit_manifest(folder, lambda values: values["splits"]["train"].update(index=index))


class Hostile:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._marker), "w")


@pytest.mark.parametrize("form", ["a pickle", "an array of objects"])
def test_an_index_of_objects_is_refused_and_none_of_them_is_made(shards_set: Path, tmp_path: Path, form: str) -> None:
    folder, marker = copy_of(shards_set, tmp_path / "copy"), tmp_path / "ran"
    path = folder / "train.index.npy"
    if form == "a pickle":  # which numpy reads by itself, where it may
        path.write_bytes(pickle.dumps(Hostile(marker)))
    else:
        np.save(path, np.array([Hostile(marker)], dtype=object), allow_pickle=True)
    edit_manifest(folder, lambda values: values["splits"]["train"].update(index=entry(path)))
    with pytest.raises(InputError, match=r"train\.index\.npy is no index \("):
        opened(folder)
    assert not marker.exists()


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_are_the_members_names_however_tar_spells_them(tree: Path, tmp_path: Path, tar_format: int) -> None:
    classes, samples = samples_of(tree, "val")
    folders = "/".join(["n01440764"] * 12)  # 119 characters: ustar splits it, GNU and PAX write a header of its own
    names = ["plain", f"{folders}/long", "n0/école" if tar_format != tarfile.USTAR_FORMAT else "n0/ecole", "a\x1b[2J"]
    samples = [Sample(name, samples[i].data, samples[i].label) for i, name in enumerate(names)]
    split = write_shards(tmp_path, "train", samples, shards=2, tar_format=tar_format)
    store = opened(write_manifest(tmp_path, classes, {"train": split}))
    keys = [f"train-{i // 2:06d}.tar:{name}.jpg" for i, name in enumerate(names)]
    keys[3] = r"train-000001.tar:'a\x1b[2J.jpg'"  # no escape sequence reaches a terminal
    assert [store.key(i) for i in range(4)] == keys
    backwards = opened(edit_index(tmp_path, lambda rows: rows[::-1]))
    assert [backwards.key(i) for i in range(4)] == keys[::-1]


def test_a_sample_has_a_name_though_its_header_is_damaged(shards_set: Path, tmp_path: Path) -> None:
    folder = copy_of(shards_set, tmp_path / "copy")
    offset = int(np.load(folder / "train.index.npy")["offset"][4])
    shard = folder / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[offset - 512 : offset] = bytes(range(256)) * 2
    shard.write_bytes(data)
    assert opened(folder).key(4) == f"train-000000.tar:byte {offset}"


def test_verify_finds_one_changed_bit(shards_set: Path, tmp_path: Path) -> None:
    folder = copy_of(shards_set, tmp_path / "copy")
    row = np.load(folder / "train.index.npy")[40]
    shard = folder / "train-000002.tar"
    data = bytearray(shard.read_bytes())
    data[int(row["offset"]) + int(row["length"]) // 2] ^= 1
    shard.write_bytes(data)
    store = opened(folder)
    store.verify(39)
    with pytest.raises(SampleError, match=f"its CRC-32 is .* where the index says {row['checksum']:08x}") as caught:
        store.verify(40)
    assert caught.value.key == store.key(40)


def test_a_shard_that_shrinks_after_opening_is_named(shards_set: Path, tmp_path: Path) -> None:
    folder = copy_of(shards_set, tmp_path / "copy")
    store = opened(folder)
    (folder / "train-000001.tar").write_bytes(b"")
    store.hint(np.array([20]))
    with pytest.raises(SampleError, match=r"train-000001\.tar:byte"):
        store.read(20)
    assert len(store.read(0)), "the others are read all the same"


def test_a_fingerprint_is_that_of_classes_and_index(shards_set: Path, tmp_path: Path) -> None:
    first = opened(shards_set).fingerprint
    folder = copy_of(shards_set, tmp_path / "copy")
    assert opened(folder).fingerprint == first, "wherever it lies"
    prints = {first, opened(folder, "val").fingerprint, open_store(folder, "fold1").fingerprint}
    edit_index(folder, lambda rows: rows[::-1])
    prints.add(opened(folder).fingerprint)
    edit_manifest(folder, lambda values: values["classes"].append("dog"))
    prints.add(opened(folder).fingerprint)
    assert len(prints) == 5


def test_a_subset_keeps_its_own_order(shards_set: Path, tmp_path: Path) -> None:
    folder = copy_of(shards_set, tmp_path / "copy")
    np.save(folder / "fold1.ids.npy", np.array([7, 50, 3], dtype=np.int64))
    ids = entry(folder / "fold1.ids.npy")
    edit_manifest(folder, lambda values: values["subsets"]["fold1"].update(ids=ids))
    whole, fold = opened(folder), open_store(folder, "fold1")
    assert isinstance(fold, Subset)
    assert [fold.key(i) for i in range(3)] == [whole.key(i) for i in (7, 50, 3)]
    assert fold.labels.tolist() == [0, 2, 0]
    assert bytes(fold.read(1)) == bytes(whole.read(50))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([0, 51]), r"ids 0 to 51 where split 'train' has 51 samples"),
        (np.array([-1, 5]), r"ids -1 to 5"),
        (np.array([3, 4, 3]), r"names 1 samples more than once"),
        (np.array([3, 4], dtype=np.int32), r"holds \(2,\) of int32 where int64"),
        (np.zeros((0,), dtype=np.int64), r"holds \(0,\) of int64"),
        (np.array([{}], dtype=object), r"is no array of ids"),
    ],
)
def test_ids_that_are_no_samples_are_refused(shards_set: Path, tmp_path: Path, ids: np.ndarray, message: str) -> None:
    folder = copy_of(shards_set, tmp_path / "copy")
    np.save(folder / "fold1.ids.npy", ids)
    named = entry(folder / "fold1.ids.npy")
    edit_manifest(folder, lambda values: values["subsets"]["fold1"].update(ids=named))
    with pytest.raises(InputError, match=message):
        open_store(folder, "fold1")


def test_a_file_of_another_size_is_refused_with_both_sizes(shards_set: Path, tmp_path: Path) -> None:
    for name in ("train-000001.tar", "train.index.npy", "fold1.ids.npy"):
        folder = copy_of(shards_set, tmp_path / name)
        size = (folder / name).stat().st_size
        with (folder / name).open("ab") as file:
            file.write(b"x")
        with pytest.raises(
            InputError, match=re.escape(f"{name} has {size + 1:,} bytes where manifest.json says {size:,}")
        ):
            open_store(folder, "fold1")
        (folder / name).unlink()
        with pytest.raises(InputError, match=re.escape(f"{name} is missing")):
            open_store(folder, "fold1")


def put(field: str, value: int) -> Callable[[np.ndarray], None]:
    def edit(rows: np.ndarray) -> None:
        rows[field][9] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("shard", 3), "puts sample 9 into shard 3 where manifest.json names 3"),
        (put("label", 3), "gives sample 9 label 3 of 3 classes"),
        (put("label", -1), "gives sample 9 label -1 of 3 classes"),
        (put("length", 2**31), r"puts sample 9 at byte .* with 2,147,483,648 bytes, outside train-000000\.tar of "),
        (put("offset", 2**40), r"puts sample 9 at byte 1,099,511,627,776"),
        (put("offset", 2**64 - 16), r"puts sample 9 at byte 18,446,744,073,709,551,600"),
        (lambda rows: rows[:-1], r"holds \(50,\) rows of .* says 51 samples"),
        (lambda rows: rows.astype([(name, "<u8") for name in ROW.names or ()])["label"], "holds .* rows of None"),
        (lambda rows: rows.astype([*ROW.descr[:-1], ("width", "<u4")]), "holds .* rows of"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    shards_set: Path, tmp_path: Path, edit: Callable[[np.ndarray], np.ndarray | None], message: str
) -> None:
    folder = edit_index(copy_of(shards_set, tmp_path / "copy"), edit)
    with pytest.raises(InputError, match=message):
        open_store(folder, "train")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda values: values["splits"]["train"]["shards"][0].update(name="../train-000000.tar"), "leads out of"),
        (lambda values: values["splits"].update({"../evil": values["splits"]["val"]}), "'../evil' leads out of"),
        (lambda values: values["splits"]["val"]["index"].update(name=".."), "'..' leads out of"),
        (lambda values: values["splits"]["val"].update(samples=float("inf")), "is no manifest"),
        (lambda values: values.update(format=99), "has format 99, this version reads 2"),
        (lambda values: values["splits"].pop("train"), "has no split 'train': it has val, fold1"),
        (lambda values: values["splits"]["train"].update(shards=[]), "has no shards of split 'train'"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    shards_set: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = edit_manifest(copy_of(shards_set, tmp_path / "copy"), edit)
    with pytest.raises(InputError, match=message):
        open_store(folder, "train")


def test_more_shards_than_open_files_are_refused_before_they_are_mapped(
    shards_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.shards.sys.version_info", (3, 12))
    monkeypatch.setattr("os.sysconf", {"SC_OPEN_MAX": 66}.__getitem__)
    with pytest.raises(InputError, match="3 shards need as many open files, and this process may have 66"):
        open_shards(shards_set, "train")
    assert len(open_shards(shards_set, "val")) == 21


def test_hints_ask_for_whole_pages_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Mapping:
        def madvise(self, option: int, start: int, length: int) -> None:
            assert option == 3  # MADV_WILLNEED
            asked.append((start, length))

    file = MappedFile(tmp_path / "any", 1 << 20)
    monkeypatch.setattr(file, "_map", lambda: SimpleNamespace(mapping=Mapping()))
    monkeypatch.setattr("loaders.mapped.mmap.PAGESIZE", 4096)
    # Out of order; three on one page, one that touches the next page; far away one with two others inside it.
    starts = np.array([40_000, 10, 200, 4_000, 8_192, 300, 41_000, 55_000])
    lengths = np.array([20_000, 50, 100, 3_000, 9_000, 10, 10, 10])
    file.will_need(starts, starts + lengths)
    assert asked == [(0, 20_480), (36_864, 24_576)]


OPEN_LARGE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from loaders.shards import open_shards
def peak():  # of this process alone; ru_maxrss would count its parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before = peak()
store = open_shards(Path(sys.argv[1]), "train")
print(len(store), peak() - before)
"""


def test_an_index_of_imagenets_size_opens_in_little_memory(tmp_path: Path) -> None:
    samples, shards, length = 1_300_000, 143, 110_000
    rows = np.zeros(samples, ROW)
    place = np.arange(samples)
    rows["shard"], rows["offset"] = place // 9_091, place % 9_091 * (length + 1_536) + 512
    rows["length"], rows["label"] = length, np.random.default_rng(0).integers(0, 1000, samples)
    files = []
    for shard in range(shards):
        with (tmp_path / f"train-{shard:06d}.tar").open("wb") as file:
            file.truncate(9_091 * (length + 1_536) + 10_240)  # sparse: takes no space
        files.append({"name": f"train-{shard:06d}.tar", "size": 9_091 * (length + 1_536) + 10_240, "sha256": ""})
    split = {"samples": samples, "index": write_index(tmp_path, "train", rows), "shards": files}
    write_manifest(tmp_path, [f"n{label:08d}" for label in range(1000)], {"train": split})
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", OPEN_LARGE, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert not done.returncode, done.stderr
    count, mebibytes = (float(word) for word in done.stdout.split())
    assert count == samples
    assert 0 < mebibytes < 190  # 200 MB
