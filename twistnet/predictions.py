"""predictions.npz: what a model said of every sample of a split, for tests on pairs and confusion matrices.

ids (N,) int64   labels (N,) int64   predicted (N,) int64   probabilities (N, C) float16   classes (C,) text
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loaders import Batch
from loaders.files import write_atomically
from twistnet.distributed import World

NAME = "predictions.npz"


class Predictions:
    """Gathers predictions of all ranks, each sample once, sorted by its id in the split."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids: list[Tensor] = []  # -1 where a row is filling
        self._labels: list[Tensor] = []
        self._predicted: list[Tensor] = []
        self._probabilities: list[Tensor] = []

    def note(self, logits: Tensor, batch: Batch) -> None:
        """Adds a batch, without waiting for the device."""
        ids = batch.ids.to(logits.device, non_blocking=True)
        self._ids.append(ids.where(batch.valid, -1))
        self._labels.append(batch.labels.clone())  # the loader may fill a batch's memory anew
        self._predicted.append(logits.argmax(dim=1))
        self._probabilities.append(logits.float().softmax(dim=1).half())

    def gathered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids, labels, predictions and probabilities on the CPU; all ranks call this, having noted equally many."""
        parts = (self._ids, self._labels, self._predicted, self._probabilities)
        ids, labels, predicted, probabilities = (
            self._world.gather(torch.cat(part)).flatten(0, 1).cpu() for part in parts
        )
        order = ids.argsort()
        order = order[ids[order] >= 0]
        return ids[order], labels[order], predicted[order], probabilities[order]

    def write(self, folder: Path, classes: Sequence[str]) -> None:
        """Writes them on rank 0; all ranks call this."""
        ids, labels, predicted, probabilities = (tensor.numpy() for tensor in self.gathered())
        if self._world.is_main:
            arrays = {"ids": ids, "labels": labels, "predicted": predicted, "probabilities": probabilities}
            names = np.array(list(classes), dtype=np.str_)
            write_atomically(
                folder / NAME,
                lambda file: np.savez_compressed(file, allow_pickle=False, **arrays, classes=names),
            )
