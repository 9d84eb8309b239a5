"""The process that FFCV's writer runs in: `python -m convert.beton_process SPEC`, SPEC as JSON.

JPEGs pass through untouched: FFCV's own field would encode them once more. One worker, because what several write
depends on their timing, and because there is little left to do but to copy.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
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

    def __init__(self, shards: Sequence[str], rows: npt.NDArray[np.void], policy: BetonPolicy) -> None:
        self._shards, self._rows, self._policy = shards, rows, policy
        self._number, self._open = -1, np.zeros(0, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, sample: int) -> tuple[Stored, int]:
        row = self._rows[sample]
        if row["shard"] != self._number:
            self._number = int(row["shard"])
            self._open = np.memmap(self._shards[self._number], dtype=np.uint8, mode="r")
        start, size = int(row["offset"]), (int(row["height"]), int(row["width"]))
        data = self._open[start : start + int(row["length"])]
        if self._policy.is_jpg(int(sample)):
            return (JPG, data, size), int(row["label"])
        with Image.open(io.BytesIO(data.tobytes())) as image:
            pixels = np.asarray(image.convert("RGB"))
        return (RAW, pixels.reshape(-1), size), int(row["label"])


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


def main(spec: dict[str, Any]) -> None:
    """Writes the file that the spec describes."""
    field = RGBImageField()
    field.encode = encode_stored
    fields = {"image": field, "label": IntField()}
    writer = ffcv.writer.DatasetWriter(spec["out"], fields, page_size=spec["page_size"], num_workers=1)
    samples = Samples(spec["shards"], np.load(spec["rows"]), BetonPolicy(**spec["policy"]))
    ffcv.writer.Process = Worker
    threading.Thread(target=end_with_the_worker, args=(spec["parent"],), daemon=True).start()
    writer.from_indexed_dataset(samples)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
