"""A converted set of many small shards, a web server of it that can be told to misbehave, and what a loader delivers.

A test module takes the fixtures by `pytest_plugins = ("staging_sets",)`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tree
from converted_sets import samples_of, write_manifest, write_shards

import loaders
from loaders import Loader, opening, sources
from loaders.order import Order

SHARDS = 24
CHUNK, WINDOW = 5, 20  # samples, of 120
FOLD = [3, 9, 4, 30, 31, 90]


@pytest.fixture(scope="session")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training samples in 24 shards, 6 for validation in 2, and a subset of the training samples."""
    root = tmp_path_factory.mktemp("staged")
    tree = write_tree(root / "tree", {"train": 40, "val": 2})
    folder = root / "set"
    folder.mkdir()
    classes, train = samples_of(tree, "train")
    splits = {
        "train": write_shards(folder, "train", train, shards=SHARDS),
        "val": write_shards(folder, "val", samples_of(tree, "val")[1], shards=2),
    }
    return write_manifest(folder, classes, splits, {"fold1": ("train", FOLD)})


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that are smaller than the set."""
    monkeypatch.setattr(opening, "Order", functools.partial(Order, chunk=CHUNK, window=WINDOW))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pauses that a person would wait for."""
    monkeypatch.setattr(sources, "_FIRST_S", 0.001)


def opened(path: str | Path, split: str = "train", batch_size: int = 8, **options: Any) -> Loader:
    options = {"train": split == "train", "size": 32, "num_threads": 1, "decoder": "reference", **options}
    return loaders.open_loader(path, split, batch_size, **options)


def delivered(loader: Loader, epochs: int = 1) -> list[tuple[list[int], bytes, list[bool]]]:
    """Ids, pixels and validity of all batches; closes the loader."""
    with loader:
        return [
            (batch.ids.tolist(), batch.images.numpy().tobytes(), batch.valid.tolist())
            for epoch in range(epochs)
            for batch in loader.epoch(epoch)
        ]


def staged(folder: Path) -> dict[str, str]:
    """SHA-256 of the shards in a staging folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/shards/[!.]*")}


def checksums(folder: Path) -> dict[str, str]:
    """What the manifest says of the training shards."""
    values = json.loads((folder / "manifest.json").read_text())
    return {shard["name"]: shard["sha256"] for shard in values["splits"]["train"]["shards"]}


def sizes(folder: Path, pattern: str = "train-*.tar") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def shard_of(folder: Path) -> np.ndarray:
    return np.load(folder / "train.index.npy")["shard"]


class Server:
    """Serves a folder over HTTP.

    Attributes:
        url: of the folder.
        asked: names of files, in the order in which they were asked for.
        behave: given the name, how often it was asked for, and the handler; does the answering itself where it
            returns True.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.behave: Callable[[str, int, BaseHTTPRequestHandler], bool] = lambda *_: False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                server.asked.append(name)
                # A client that goes in the middle is what some tests are about.
                with contextlib.suppress(ConnectionError):
                    if server.behave(name, server.asked.count(name), self):
                        return
                    path = folder / name
                    if not path.is_file():
                        self.send_error(404)
                        return
                    answer(self, path.read_bytes())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/set"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer(handler: BaseHTTPRequestHandler, data: bytes, promised: int | None = None) -> None:
    """The data, with a length that may be wrong; a negative one is left out."""
    handler.send_response(200)
    length = len(data) if promised is None else promised
    if length >= 0:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def server(many_shards: Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp", reason="needs aiohttp")
    found = Server(many_shards)
    yield found
    found.close()


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
