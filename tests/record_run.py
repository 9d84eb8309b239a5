"""Runs the command line and writes down, sample by sample, what training is given: used by test_resume.py.

python record_run.py RECORD pretrain --data_dir ...
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator

import loaders
from loaders import Batch, Loader
from twistnet.__main__ import main

_open_loader = loaders.open_loader


class Recorder:
    """A training loader that notes what it hands out."""

    def __init__(self, loader: Loader, path: str) -> None:
        self._loader, self._path = loader, path

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start: int = 0, *, size: int | None = None) -> Iterator[Batch]:
        for step, batch in enumerate(self._loader.epoch(epoch, start, size=size), start=start):
            samples = [
                [
                    int(batch.ids[place]),
                    hashlib.sha256(batch.images[place].contiguous().numpy().tobytes()).hexdigest()[:16],
                    *(tensor[place].item() for tensor in (batch.labels, batch.partner, batch.weight, batch.valid)),
                ]
                for place in range(len(batch.ids))
            ]
            with open(f"{self._path}.{os.environ.get('RANK', '0')}", "a") as file:
                file.write(json.dumps([epoch, step, samples]) + "\n")
            yield batch


def open_recorded(*args: object, **kwargs: object) -> object:
    loader = _open_loader(*args, **kwargs)
    return Recorder(loader, sys.argv[1]) if kwargs["train"] else loader


if __name__ == "__main__":
    with open(f"{sys.argv[1]}-pid.{os.environ.get('RANK', '0')}", "w") as file:
        file.write(str(os.getpid()))
    loaders.open_loader = open_recorded
    sys.exit(main(sys.argv[2:]))
