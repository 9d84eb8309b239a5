"""The command line, with each batch that training takes written down, sample by sample, and read again.

    python -m bench.recorded RECORD pretrain --data_dir ...     # also under torchrun --module

RECORD.<rank> gets a line a batch, and RECORD-pid.<rank> holds the process's number.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loaders
from loaders import Batch, Loader
from twistnet.__main__ import main

See = Callable[[int, int, Batch], object]


class _Watched:
    """A training loader that shows what it hands out."""

    def __init__(self, loader: Loader, see: See) -> None:
        self._loader, self._see = loader, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int, start: int = 0, *, size: int | None = None) -> Iterator[Batch]:
        for step, batch in enumerate(self._loader.epoch(epoch, start, size=size), start=start):
            self._see(epoch, step, batch)
            yield batch


@contextmanager
def watched(see: See) -> Iterator[None]:
    """Has every training loader that is opened in the block show its batches: epoch, step in it, batch."""
    opened = loaders.open_loader

    def open_watched(*given: Any, **options: Any) -> Any:
        loader = opened(*given, **options)
        return _Watched(loader, see) if options["train"] else loader

    loaders.open_loader = open_watched
    try:
        yield
    finally:
        loaders.open_loader = opened


def note(path: Path, epoch: int, step: int, batch: Batch) -> None:
    """Adds a batch to a file: of each sample its id, a digest of its pixels, and what the loss makes of it."""
    samples = [
        [
            int(batch.ids[place]),
            hashlib.sha256(batch.images[place].contiguous().numpy().tobytes()).hexdigest()[:16],
            *(tensor[place].item() for tensor in (batch.labels, batch.partner, batch.weight, batch.valid)),
        ]
        for place in range(len(batch.ids))
    ]
    with path.open("a") as file:  # a kill tears the line that is being written, and must not spoil the next one
        file.write(f"\n{json.dumps([epoch, step, samples])}\n")


@dataclass(slots=True)
class Taken:
    """What training was given, all starts of a run together.

    Attributes:
        batches: the samples of all ranks in order, by epoch and step in it.
        repeated: steps whose batch was taken again, since what came of them was lost; of the rank with most of them.
        differing: steps whose batch was another one when it was taken again: there must be none.
    """

    batches: dict[tuple[int, int], list[Any]] = field(default_factory=dict)
    repeated: int = 0
    differing: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, record: Path) -> Taken:
        """Of the record's files."""
        found = cls()
        ranks = sorted(record.parent.glob(f"{record.name}.*"), key=lambda path: int(path.suffix[1:]))
        for path in ranks:
            own: dict[tuple[int, int], list[Any]] = {}
            repeated = 0
            for epoch, step, samples in lines(path):
                repeated += (epoch, step) in own
                if own.setdefault((epoch, step), samples) != samples:
                    found.differing.append((epoch, step))
            for place, samples in own.items():
                found.batches.setdefault(place, []).extend(samples)
            found.repeated = max(found.repeated, repeated)
        return found


def lines(path: Path) -> Iterator[list[Any]]:
    """What a rank has written down: epoch, step in it, and samples, a batch each."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # empty, or torn: that batch was not taken
            continue


def last_taken(record: Path, rank: int = 0) -> tuple[int, int] | None:
    """Epoch and step of the batch that a rank took last; None where there is none yet."""
    path = record.with_name(f"{record.name}.{rank}")
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2**16))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            epoch, step, _ = json.loads(line)
        except ValueError:
            continue
        return int(epoch), int(step)
    return None


if __name__ == "__main__":
    rank = os.environ.get("RANK", "0")
    Path(f"{sys.argv[1]}-pid.{rank}").write_text(str(os.getpid()))
    own = Path(f"{sys.argv[1]}.{rank}")
    with watched(lambda epoch, step, batch: note(own, epoch, step, batch)):
        code = main(sys.argv[2:])
    sys.exit(code)
