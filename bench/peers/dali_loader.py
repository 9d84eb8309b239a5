"""A DALI pipeline on its CPU backend: random region, antialiased linear resize, flip; uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy


def batches(path: Path, *, batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    """One epoch over a tree after another, each as the number of images of its batches."""
    return _batches(
        lambda: fn.readers.file(file_root=str(path / "train"), random_shuffle=True, name="reader"),
        batch_size,
        size,
        workers,
    )


def shard_batches(path: Path, *, batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    """The same over the shards of a converted set, with the index files beside them."""
    shards = sorted(path.glob("train-*.tar"))

    def read() -> Any:
        encoded, labels = fn.readers.webdataset(  # type: ignore[misc]  # annotated as returning None
            paths=[str(shard) for shard in shards],
            index_paths=[str(shard.with_suffix(".idx")) for shard in shards],
            ext=["jpg;jpeg;JPEG", "cls"],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        return encoded, fn.pad(labels)  # digits, more of them for some classes

    return _batches(read, batch_size, size, workers)


def _batches(read: Callable[[], Any], batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    @pipeline_def(batch_size=batch_size, num_threads=workers, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        encoded, labels = read()
        images = fn.decoders.image_random_crop(
            encoded, device="cpu", output_type=types.RGB, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, resize_x=size, resize_y=size, interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    loader = DALIGenericIterator(
        pipeline(), ["images", "labels"], reader_name="reader", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )
    while True:
        yield (len(batch[0]["images"]) for batch in loader)
