"""What a staged set does about sources that fail, stall, lie, and files that go: every fault on purpose."""

from __future__ import annotations

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from staging_sets import Server, answer, checksums, delivered, opened, shard_of, sizes, staged, wait_until

from loaders import InputError, sources
from loaders.sources import ATTEMPTS, Source

pytest_plugins = ("staging_sets",)

BAD = "train-000007.tar"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "twistnet-stage"]


def one_sentence(error: BaseException) -> str:
    said = str(error)
    assert said.endswith(".")
    assert "\n" not in said
    return said


FAULTS = {
    "fails": lambda _, handler: handler.send_error(503),
    "garbage": lambda data, handler: answer(handler, bytes(len(data))),
    "cut": lambda data, handler: answer(handler, data[: len(data) // 2], len(data)),
    "short": lambda data, handler: answer(handler, data[:-1]),
    "more": lambda data, handler: answer(handler, data + b"more"),
    "closes": lambda *_: None,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("quick_retries")
def test_a_fault_that_passes_does_no_harm_and_is_told_once(
    many_shards: Path,
    tmp_path: Path,
    server: Server,
    capfd: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    data = (many_shards / BAD).read_bytes()

    def behave(name: str, count: int, handler: BaseHTTPRequestHandler) -> bool:
        if name == BAD and count < ATTEMPTS:
            FAULTS[fault](data, handler)
            return True
        return False

    server.behave = behave
    assert delivered(opened(server.url, stage=tmp_path)) == delivered(opened(many_shards))
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("[Warning]")]
    assert len(said) == 1
    assert said[0].startswith(f"[Warning] {server.url}/{BAD} is read again (")
    assert staged(tmp_path) == checksums(many_shards)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("fails", "ClientResponseError: 503"),
        ("garbage", r"its SHA-256 is [0-9a-f]{16}\.\.\. where manifest.json says"),
        ("cut", "ClientPayloadError"),
        ("short", r"it ended after [\d,]+ bytes where manifest.json says"),
        ("more", r"it has more than the [\d,]+ bytes that manifest.json says"),
        ("closes", "ServerDisconnectedError"),
    ],
)
@pytest.mark.usefixtures("quick_retries")
def test_a_fault_that_stays_is_a_sentence_that_names_the_shard(
    many_shards: Path, tmp_path: Path, server: Server, fault: str, reason: str
) -> None:
    data = (many_shards / BAD).read_bytes()

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        if name == BAD:
            FAULTS[fault](data, handler)
        return name == BAD

    server.behave = behave
    with (
        opened(server.url, stage=tmp_path) as loader,
        pytest.raises(InputError, match=rf"{BAD} cannot be read in 5 attempts \({reason}") as caught,
    ):
        list(loader.epoch(0))
    one_sentence(caught.value)
    assert BAD not in staged(tmp_path)
    assert not threads()
    assert not list(tmp_path.glob("*/shards/.*tmp"))


@pytest.mark.usefixtures("quick_retries")
def test_no_more_is_taken_than_the_manifest_says(tmp_path: Path, server: Server) -> None:
    """Of a server that never ends."""
    sent = []

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        if name != "train.index.npy":
            return False
        handler.send_response(200)
        handler.end_headers()
        sent.append(0)
        while True:
            handler.wfile.write(bytes(1 << 20))
            sent[-1] += 1 << 20

    server.behave = behave
    with pytest.raises(InputError, match=r"train.index.npy cannot be read in 5 attempts .it has more than the 3,616 "):
        opened(server.url, stage=tmp_path)
    assert len(sent) == ATTEMPTS
    wait_until(lambda: max(sent) < 1 << 27)
    assert not list(tmp_path.glob("*/train.index.npy"))


def test_a_manifest_that_never_ends_is_refused(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MANIFEST", 100_000)
    sent = []

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        if name != "manifest.json":
            return False
        handler.send_response(200)
        handler.end_headers()
        while len(sent) < 1 << 10:  # who reads all of it reads a GiB
            handler.wfile.write(bytes(1 << 20))
            sent.append(1 << 20)
        return True

    server.behave = behave
    with pytest.raises(InputError, match=r"manifest.json is longer than 100,000 bytes"):
        opened(server.url, stage=tmp_path)
    assert server.asked.count("manifest.json") == 1, "reading it again would not make it shorter"
    assert sum(sent) < 1 << 27, "what fits into the buffers between them"


def test_pauses_between_attempts_grow(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Recorded(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    def fails() -> None:
        raise OSError("no answer")

    waits: list[float | None] = []
    with pytest.raises(InputError, match="x cannot be read in 5 attempts"):
        Source(tmp_path)._again("x", fails, Recorded())
    assert len(waits) == ATTEMPTS - 1
    for number, waited in enumerate(waits):
        assert waited is not None
        assert 0.75 * 2**number <= waited <= 1.25 * 2**number, "about 1, 2, 4 and 8 seconds"
    assert capfd.readouterr().err.count("is read again (OSError: no answer)") == 1


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_says_nothing_is_given_up(
    many_shards: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_STALLED_S", 0.2)
    stay = threading.Event()

    def behave(name: str, count: int, _: BaseHTTPRequestHandler) -> bool:
        return name == BAD and count == 1 and bool(stay.wait(20) or True)

    server.behave = behave
    url = server.url.replace("127.0.0.1", "localhost")  # fsspec keeps one client for each set of options
    assert delivered(opened(url, stage=tmp_path)) == delivered(opened(many_shards))
    stay.set()


def test_closing_does_not_wait_for_a_server_that_says_nothing(tmp_path: Path, server: Server) -> None:
    stay = threading.Event()
    server.behave = lambda name, *_: name.endswith(".tar") and bool(stay.wait(30) or True)
    loader = opened(server.url, stage=tmp_path)
    batches = loader.epoch(0)

    def take() -> None:
        with pytest.raises(InputError, match="was closed"):
            next(batches)

    waiting = threading.Thread(target=take)
    waiting.start()
    wait_until(lambda: any(name.endswith(".tar") for name in server.asked))
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 5
    waiting.join(5)
    assert not waiting.is_alive()
    stay.set()


def test_closing_ends_copies_and_pauses_at_once(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Source, entry: Any, *rest: Any) -> None:
        if entry.name.endswith(".tar"):
            raise OSError("no answer")
        copy(self, entry, *rest)

    copy = Source._copy_once
    monkeypatch.setattr(sources, "_FIRST_S", 60.0)
    monkeypatch.setattr(Source, "_copy_once", fails)
    loader = opened(many_shards, stage=tmp_path)
    _batches = loader.epoch(0)
    wait_until(threads)
    began = time.monotonic()
    loader.close()
    assert time.monotonic() - began < 1
    assert not threads()
    assert not staged(tmp_path)


def test_a_shard_that_goes_after_it_came_does_no_harm(many_shards: Path, tmp_path: Path) -> None:
    source, stage = tmp_path / "set", tmp_path / "stage"
    shutil.copytree(many_shards, source)
    with opened(source, stage=stage) as loader:
        batches = loader.epoch(0)
        first = [next(batches)]
        wait_until(lambda: staged(stage).keys() == checksums(many_shards).keys())
        for path in source.glob("*.tar"):
            path.unlink()
        ids = [batch.ids.tolist() for batch in (*first, *batches)]
        again = [batch.ids.tolist() for batch in loader.epoch(1)]
    assert ids == [ids for ids, _, _ in delivered(opened(many_shards))]
    assert len(again) == 15


@pytest.mark.usefixtures("small_windows")
def test_a_shard_that_never_came_is_named_at_the_batch_that_needs_it(many_shards: Path, tmp_path: Path) -> None:
    """Not before, and at once: to read again would not bring it back."""
    source = tmp_path / "set"
    shutil.copytree(many_shards, source)
    with opened(source, shuffle="window", stage=tmp_path / "stage") as loader:
        order = loader.plan.order  # type: ignore[attr-defined]
        shards = shard_of(source)
        needed = [set(shards[order.batch(0, step)[0]].tolist()) for step in range(len(order))]
        late = next(shard for shard in needed[-1] if not any(shard in step for step in needed[:6]))
        at = next(step for step in range(len(order)) if late in needed[step])
        (source / f"train-{late:06d}.tar").unlink()
        batches = loader.epoch(0)
        for _ in range(at):
            next(batches)
        with pytest.raises(InputError, match=rf"train-{late:06d}.tar cannot be read \(FileNotFoundError") as caught:
            next(batches)
        one_sentence(caught.value)
        shutil.copy(many_shards / f"train-{late:06d}.tar", source)
        assert len(list(loader.epoch(0, at))) == len(order) - at, "it has come back"


def test_a_full_disk_is_said_in_a_sentence(many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Source, entry: Any, to: Any, stop: Any) -> None:
        if entry.name.endswith(".tar"):
            raise sources.Unwritable("[Errno 28] No space left on device")
        copy(self, entry, to, stop)

    copy = Source._copy_once
    monkeypatch.setattr(Source, "_copy_once", full)
    with (
        opened(many_shards, stage=tmp_path) as loader,
        pytest.raises(
            InputError, match=r"train-\d+.tar cannot be written to .* \(.*No space left on device\): make room"
        ),
    ):
        next(loader.epoch(0))
    assert not list(tmp_path.glob("*/shards/.*tmp"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda train: train["shards"][0].update(name="../out.tar"), r"the name '../out.tar' leads out of the folder"),
        (lambda train: train["shards"][0].update(name="/etc/passwd"), "the name '/etc/passwd' leads out of the folder"),
        (lambda train: train["index"].update(name="../../index.npy"), "leads out of the folder"),
        (
            lambda train: train["shards"][0].update(name=".lock"),
            r"names a file '.lock' that is hidden or there already",
        ),
        (lambda train: train["shards"][0].update(name=BAD), f"names a file '{BAD}' that is hidden or there already"),
        (lambda train: train["index"].update(name="manifest.json"), "names a file 'manifest.json' that is hidden or"),
        (lambda train: train["shards"][0].update(size=-1), "the size -1 of train-000000.tar is negative"),
    ],
)
def test_a_manifest_from_a_server_writes_nothing_outside_its_folder(
    many_shards: Path, tmp_path: Path, server: Server, edit: Any, message: str
) -> None:
    values = json.loads((many_shards / "manifest.json").read_text())
    edit(values["splits"]["train"])

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        if name == "manifest.json":
            answer(handler, json.dumps(values).encode())
        return name == "manifest.json"

    server.behave = behave
    stage = tmp_path / "deep" / "stage"
    with pytest.raises(InputError, match=message) as caught:
        opened(server.url, stage=stage)
    assert server.url in one_sentence(caught.value)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("data", [b"<html>not found</html>", b"[" * 100_000, b"\xff\xfe", b"", b'{"format": 9}'])
def test_a_page_that_is_no_manifest_is_refused(tmp_path: Path, server: Server, data: bytes) -> None:
    server.behave = lambda _name, _count, handler: bool(answer(handler, data) or True)
    with pytest.raises(InputError, match=r"/set/manifest.json (is no manifest|has format 9)"):
        opened(server.url, stage=tmp_path / "stage")
    assert not (tmp_path / "stage").exists()


@pytest.mark.usefixtures("quick_retries")
def test_an_index_that_is_not_the_manifests_is_refused(many_shards: Path, tmp_path: Path, server: Server) -> None:
    rows = np.load(many_shards / "train.index.npy")
    rows["label"] = rows["label"][::-1]
    header = (many_shards / "train.index.npy").read_bytes()[: -rows.nbytes]

    def behave(name: str, _: int, handler: BaseHTTPRequestHandler) -> bool:
        if name == "train.index.npy":
            answer(handler, header + rows.tobytes())
        return name == "train.index.npy"

    server.behave = behave
    with pytest.raises(InputError, match=r"train.index.npy cannot be read in 5 attempts .its SHA-256 is"):
        opened(server.url, stage=tmp_path)
    assert sizes(tmp_path, "*/*.npy") == 0
