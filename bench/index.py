"""`python -m bench index`: how long it takes to open a data set of ImageNet's size, beside FFCV's own reader."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from bench.options import check_positive
from bench.peers.ffcv_writer import write_pixels_with_ffcv
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from convert.beton import require_ffcv
from loaders import open_store
from loaders.beton import ALLOCATION, FIELD, HEADER, IMAGE, LABEL
from loaders.manifest import FORMAT, INDEX_DTYPE, NAME, FileEntry

CLASSES, PER_SHARD, LENGTH = 1000, 9_000, 110_000
CPU = torch.device("cpu")
_ROW = np.dtype([("image", IMAGE), ("label", LABEL)], align=True)


def index(*, rounds: int = 5, samples: int = 1_300_000) -> None:
    """Opens sets whose indexes are whole and whose images are not there, and adds rows to bench/results/index.csv.

    Args:
        rounds: interleaved rounds.
        samples: in each set.
    """
    check_positive(rounds=rounds, samples=samples)
    check_results("index")
    require_ffcv()
    with tempfile.TemporaryDirectory() as folder:
        rates = index_rates(Path(folder), samples, rounds)
    path = append_rates("index", rates, {"samples": samples}, CPU)
    for what, rate in rates.items():
        print(
            f"{what}: {samples / rate.median:.3f} s ({samples / rate.high:.3f} to {samples / rate.low:.3f}, n={rate.n})"
        )
    print(added(path))


def index_rates(root: Path, samples: int, rounds: int) -> dict[str, Rate]:
    """Samples a second that each reader opens."""
    from ffcv.reader import Reader

    shards = make_shards(root / "shards", samples)
    beton = make_beton(root / "train.beton", samples)
    openings: dict[str, Callable[[], object]] = {
        "shards store": lambda: open_store(shards, "train"),
        "beton store": lambda: open_store(beton, "train"),
        "FFCV Reader": lambda: Reader(str(beton)),
    }

    def opened(name: str) -> Callable[[], int]:
        def run() -> int:
            openings[name]()
            return samples

        return run

    return measure({name: opened(name) for name in openings}, rounds=rounds, seconds=0.0, device=CPU)


def make_shards(folder: Path, samples: int) -> Path:
    """A converted set whose shards are sparse files, which take no space."""
    folder.mkdir()
    places = np.arange(samples)
    rows = np.zeros(samples, dtype=INDEX_DTYPE)
    rows["shard"], rows["offset"] = places // PER_SHARD, places % PER_SHARD * LENGTH
    rows["length"], rows["label"] = LENGTH, places % CLASSES
    np.save(folder / "train.index.npy", rows)
    shards = [
        _sparse(folder / f"train-{shard:06d}.tar", PER_SHARD * LENGTH) for shard in range(-(-samples // PER_SHARD))
    ]
    entry = {
        "samples": samples,
        "index": asdict(_entry(folder / "train.index.npy")),
        "shards": [asdict(shard) for shard in shards],
    }
    classes = [f"n{label:08d}" for label in range(CLASSES)]
    (folder / NAME).write_text(json.dumps({"format": FORMAT, "classes": classes, "splits": {"train": entry}}))
    return folder


def make_beton(path: Path, samples: int) -> Path:
    """FFCV's file of one raw pixel, to which as many rows point."""
    write_pixels_with_ffcv(path, np.zeros((1, 1, 3), dtype=np.uint8))
    written = path.read_bytes()
    header = np.frombuffer(written, HEADER, 1).copy()
    fields = written[HEADER.itemsize : HEADER.itemsize + 2 * FIELD.itemsize]
    rows = np.repeat(np.frombuffer(written, _ROW, 1, HEADER.itemsize + len(fields)), samples)
    places = np.repeat(np.frombuffer(written, ALLOCATION, 1, int(header["table"][0])), samples)
    image = HEADER.itemsize + len(fields) + rows.nbytes
    places["sample"] = np.arange(samples)
    places["offset"] = rows["image"]["offset"] = image
    header["samples"], header["table"] = samples, image + int(places["length"][0])
    with path.open("wb") as file:
        file.write(header.tobytes() + fields + rows.tobytes())
        file.seek(int(header["table"][0]))
        file.write(places.tobytes())
    return path


def _sparse(path: Path, size: int) -> FileEntry:
    with path.open("wb") as file:
        file.truncate(size)
    return _entry(path)


def _entry(path: Path) -> FileEntry:
    return FileEntry(name=path.name, size=path.stat().st_size, sha256="")
