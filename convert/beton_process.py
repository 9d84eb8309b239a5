"""The process that FFCV's writer runs in, as `main` of a file of JSON.

JPEGs pass through untouched: FFCV's own field would encode them once more. One worker, because what several write
depends on their timing; what is to be decoded is decoded ahead of it, in threads.
"""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import ffcv.writer
import numpy as np
import numpy.typing as npt
from ffcv.fields import IntField, RGBImageField
from PIL import Image

from convert.beton_policy import BetonPolicy

JPG, RAW = 0, 1  # FFCV's modes of an image
Stored = tuple[int, npt.NDArray[np.uint8], tuple[int, int]]  # mode, bytes, height and width


class Samples:
    """What FFCV's writer asks for samples: the stored image and its label."""

    def __init__(self, shards: Sequence[str], rows: npt.NDArray[np.void], policy: BetonPolicy, workers: int) -> None:
        self._shards, self._rows, self._policy, self._workers = shards, rows, policy, workers
        # Made in FFCV's worker, a copy of this process that has none of its threads.
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[tuple[Stored, int]]] = deque()
        self._next = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, sample: int) -> tuple[Stored, int]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._workers)
        assert self._next - len(self._ahead) == sample, "FFCV asks in order"
        while len(self._ahead) < 4 * self._workers and self._next < len(self):
            self._ahead.append(self._threads.submit(self._make, self._next))
            self._next += 1
        return self._ahead.popleft().result()

    def _make(self, sample: int) -> tuple[Stored, int]:
        row = self._rows[sample]
        start, size = int(row["offset"]), (int(row["height"]), int(row["width"]))
        data = _open(self._shards[int(row["shard"])])[start : start + int(row["length"])]
        if self._policy.is_jpg(sample):
            return (JPG, data, size), int(row["label"])
        with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        return (RAW, pixels.reshape(-1), size), int(row["label"])


@functools.lru_cache(maxsize=8)
def _open(shard: str) -> npt.NDArray[np.uint8]:
    return np.memmap(shard, dtype=np.uint8, mode="r")


def encode_stored(destination: Any, stored: Stored, malloc: Any) -> None:
    """In the place of RGBImageField.encode, which takes pixels."""
    destination["mode"], data, (destination["height"], destination["width"]) = stored
    destination["data_ptr"], storage = malloc(data.nbytes)
    storage[:] = data


class Worker(multiprocessing.Process):
    """A process that is remembered, because `multiprocessing` itself forgets those that have ended.

    It ends with its parent, for whose samples it would wait for ever.
    """

    started: ClassVar[list[Worker]] = []

    def start(self) -> None:
        super().start()
        self.started.append(self)

    def run(self) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=end_with_the_worker, args=(parent.pid,), daemon=True).start()
        super().run()


def end_with_the_worker(parent: int) -> None:
    """Ends this process when FFCV's worker has failed, for which FFCV would go on waiting, or when the parent has."""
    while os.getppid() == parent and not any(worker.exitcode for worker in Worker.started):
        time.sleep(0.1)
    for worker in Worker.started:
        worker.kill()
    os._exit(1)


def main(file: str) -> None:
    """Writes FFCV's file as the file of JSON describes it."""
    spec = json.loads(Path(file).read_text())
    field = RGBImageField()
    field.encode = encode_stored
    fields = {"image": field, "label": IntField()}
    writer = ffcv.writer.DatasetWriter(spec["out"], fields, page_size=spec["page_size"], num_workers=1)
    samples = Samples(spec["shards"], np.load(spec["rows"]), BetonPolicy(**spec["policy"]), spec["workers"])
    ffcv.writer.Process = Worker
    threading.Thread(target=end_with_the_worker, args=(spec["parent"],), daemon=True).start()
    writer.from_indexed_dataset(samples)
