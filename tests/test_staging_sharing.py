"""Several processes share a staging folder, and one that is killed in the middle leaves nothing that harms."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from staging_sets import Server, answer, checksums, delivered, opened, sizes, staged, wait_until

from loaders.manifest import read_manifest
from loaders.sources import Source
from loaders.staging_folder import StagingFolder

pytest_plugins = ("staging_sets",)

TESTS = Path(__file__).parent
# Reads two epochs of a rank's batches, and prints what was delivered.
READER = """
import functools, hashlib, json, sys
from loaders import opening, open_loader
from loaders.order import Order

path, stage, bound, rank, ranks = sys.argv[1:6]
opening.Order = functools.partial(Order, chunk=5, window=20)
options = dict(train=True, size=32, num_threads=1, decoder="reference", shuffle="window", stage=stage)
options |= dict(rank=int(rank), world_size=int(ranks), stage_bytes=int(bound) or None)
with open_loader(path, "train", 8, **options) as loader:
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            print(json.dumps([batch.ids.tolist(), hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()]))
"""


def reader(path: str, stage: Path, bound: int = 0, rank: int = 0, ranks: int = 1) -> subprocess.Popen[str]:
    arguments = [str(each) for each in (path, stage, bound, rank, ranks)]
    return subprocess.Popen(
        [sys.executable, "-c", READER, *arguments],
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def lines_of(process: subprocess.Popen[str]) -> list[Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("bounded", [False, True])
def test_two_ranks_copy_each_shard_once_and_read_what_one_would(
    many_shards: Path, tmp_path: Path, server: Server, bounded: bool
) -> None:
    bound = sizes(many_shards) // 2 if bounded else 0
    ranks = [reader(server.url, tmp_path / "stage", bound, rank, 2) for rank in range(2)]
    for rank, process in enumerate(ranks):
        direct = delivered(opened(many_shards, shuffle="window", rank=rank, world_size=2), epochs=2)
        assert lines_of(process) == [[ids, hashlib.sha256(pixels).hexdigest()] for ids, pixels, _ in direct]
    taken = sum(path.stat().st_size for path in (tmp_path / "stage").glob("*/shards/*.tar"))
    if bounded:
        assert taken <= bound
    else:
        assert taken == sizes(many_shards)
        shards = [name for name in server.asked if name.endswith(".tar")]
        assert len(shards) == len(set(shards)) == len(checksums(many_shards))
    assert not list((tmp_path / "stage").glob("*/shards/.*.tmp"))
    assert not list((tmp_path / "stage").glob("*/shards/.*.lock"))


def test_after_a_kill_in_the_middle_of_a_copy_the_next_run_goes_on(
    many_shards: Path, tmp_path: Path, server: Server
) -> None:
    stay, whole_ones = threading.Event(), iter(range(3))

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        """Sends three whole shards, then halves, and waits."""
        if not name.endswith(".tar") or stay.is_set() or next(whole_ones, None) is not None:
            return False
        data = (many_shards / name).read_bytes()
        answer(handler, data[: len(data) // 2], len(data))
        stay.wait(60)
        return True

    server.behave = behave
    killed = reader(server.url, tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/shards/.*.tmp")) and len(staged(tmp_path)) == 3, 60)
    time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    left = list(tmp_path.glob("*/shards/.train*.tmp"))
    assert left
    assert {path.stat().st_size for path in left} <= {path.stat().st_size for path in many_shards.glob("*.tar")}
    stay.set()
    whole = staged(tmp_path)
    server.asked.clear()
    assert delivered(opened(server.url, stage=tmp_path)) == delivered(opened(many_shards))
    assert not whole.keys() & set(server.asked), "what was whole was not copied again"
    assert staged(tmp_path) == checksums(many_shards)
    assert not list(tmp_path.glob("*/shards/.*.tmp"))


def test_what_a_killed_process_left_makes_room(many_shards: Path, tmp_path: Path) -> None:
    manifest = read_manifest(many_shards)
    entry, other = manifest.splits["train"].shards[:2]
    data = (many_shards / "manifest.json").read_bytes()
    folder = StagingFolder(tmp_path, data, Source(many_shards), max(entry.size, other.size), verify=False)
    left = folder.shard(other).with_name(f".{other.name}.{'0' * 32}.tmp")
    left.write_bytes(bytes(other.size))
    assert folder.bring(entry, {entry.name}, False, threading.Event())
    assert not left.exists()


def test_what_any_process_uses_or_will_need_soon_is_not_removed(many_shards: Path, tmp_path: Path) -> None:
    shards = read_manifest(many_shards).splits["train"].shards
    data = (many_shards / "manifest.json").read_bytes()
    bound = sum(entry.size for entry in shards[:2])
    one, other = (StagingFolder(tmp_path, data, Source(many_shards), bound, verify=False) for _ in range(2))
    never = threading.Event()
    assert all(one.bring(entry, set(), False, never) for entry in shards[:2])
    assert not other.bring(shards[2], set(), False, never), "both came just now"
    one.mark(shards[1], needed=False)
    assert other.bring(shards[3], set(), False, never)
    assert staged(tmp_path).keys() == {shards[0].name, shards[3].name}

    with one.shard(shards[0]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not other.bring(shards[4], {shards[3].name}, True, never), "one is in use, the other must stay"
    assert other.bring(shards[4], {shards[3].name}, True, never)
    assert staged(tmp_path).keys() == {shards[3].name, shards[4].name}
