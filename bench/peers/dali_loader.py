"""DALI's own pipelines: its reader, random region, antialiased linear resize, flip; uint8, on the CPU or on a card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import rand_augment
from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy


def batches(
    path: Path, *, batch_size: int, size: int, workers: int, card: int | None = None, augmented: bool = False
) -> Iterator[Iterator[int]]:
    """One epoch over a tree after another, each as the number of images of its batches.

    Args:
        path: of the tree.
        batch_size: images of a batch.
        size: side of the images in pixels.
        workers: DALI's threads.
        card: number of the CUDA device that decodes; None for DALI's CPU backend.
        augmented: whether its RandAugment follows, two operations of magnitude 9 of 31.
    """

    def read() -> Any:
        return fn.readers.file(file_root=str(path / "train"), random_shuffle=True, name="reader")

    return _batches(read, batch_size, size, workers, card, augmented)


def shard_batches(
    path: Path, *, batch_size: int, size: int, workers: int, card: int | None = None
) -> Iterator[Iterator[int]]:
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

    return _batches(read, batch_size, size, workers, card, augmented=False)


def _batches(
    read: Callable[[], Any], batch_size: int, size: int, workers: int, card: int | None, augmented: bool
) -> Iterator[Iterator[int]]:
    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=batch_size, num_threads=workers, device_id=card, enable_conditionals=augmented
    )
    def pipeline() -> Any:
        encoded, labels = read()
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu" if card is None else "mixed",
            output_type=types.RGB,
            random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
        )
        images = fn.resize(images, resize_x=size, resize_y=size, interp_type=types.INTERP_LINEAR, antialias=True)
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        return rand_augment.rand_augment(images, n=2, m=9) if augmented else images, labels

    loader = DALIGenericIterator(
        pipeline(), ["images", "labels"], reader_name="reader", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True
    )
    while True:
        yield (len(batch[0]["images"]) for batch in loader)
