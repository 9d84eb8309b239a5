"""The webdataset library over the same shards, decoded by torchvision on uint8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2


def batches(path: Path, *, batch_size: int, size: int, workers: int) -> Iterator[Iterator[int]]:
    """One epoch over a converted set's shards after another, each as the number of images of its batches."""
    steps = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])

    def decode(sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        data = torch.frombuffer(bytearray(sample["jpg"]), dtype=torch.uint8)
        return steps(decode_jpeg(data, mode=ImageReadMode.RGB)), int(sample["cls"])

    shards = [str(shard) for shard in sorted(path.glob("train-*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).map(decode)
    dataset = dataset.batched(batch_size, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)
    while True:
        yield (len(images) for images, _ in loader)
