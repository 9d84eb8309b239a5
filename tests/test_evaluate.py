"""Evaluation counts every sample once, on any number of ranks, as a plain loop over the files does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.multiprocessing
from conftest import free_port
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

import twistnet  # noqa: F401  registers the models
from loaders import CropPolicy, open_loader, open_store
from loaders.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from twistnet import distributed
from twistnet.evaluate import Score, evaluate
from twistnet.precision import Precision
from twistnet.predictions import Predictions


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


def score(rank: int, world_size: int, port: int, tree: Path, out: Path) -> None:
    """One rank's part, in a process of its own."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    with distributed.join("cpu") as world:
        loader = open_loader(
            tree, "val", 4, train=False, size=64, augment=Augment(), rank=rank, world_size=world_size, num_threads=1
        )
        predictions = Predictions(world)
        precision = Precision.choose(world.device, amp=False)
        got = evaluate(make_model(), loader, world, precision, note=predictions.note)
        loader.close()
        written = [got.samples, got.right, got.right5, got.loss, got.balanced, got.class_samples, got.class_right]
        (out / f"{rank}.json").write_text(json.dumps(written))
        if rank == 0:
            predictions.write(out, loader.classes)
        else:
            predictions.gathered()


@pytest.fixture(scope="module")
def expected(tree: Path) -> tuple[int, int, int, float]:
    """Counts and mean loss from a loop over the files that uses none of the loader."""
    store, model = open_store(tree, "val"), make_model().eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    right, losses = 0, []
    for sample in range(len(store)):
        with Image.open(store.key(sample)) as image:
            side = round(min(image.size) * CropPolicy().crop_pct)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            pixels = image.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.BILINEAR)
        tensor = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8).view(64, 64, 3).permute(2, 0, 1)
        with torch.no_grad():
            logits = model(((tensor / 255 - mean) / std)[None])
        right += int(logits.argmax() == store.labels[sample])
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor([store.labels[sample]]))))
    return len(store), right, len(store), sum(losses) / len(losses)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_counts_do_not_depend_on_the_ranks(
    tree: Path, tmp_path: Path, world_size: int, expected: tuple[int, int, int, float]
) -> None:
    port = free_port()
    torch.multiprocessing.spawn(score, (world_size, port, tree, tmp_path), nprocs=world_size)
    scores = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world_size)]
    assert all(score == scores[0] for score in scores), "every rank holds the sums"
    assert tuple(scores[0][:3]) == expected[:3]
    assert scores[0][3] == pytest.approx(expected[3], rel=1e-5)
    assert 0 < expected[1] < 21, "a score that could not be wrong would show nothing"
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        labels, predicted, ids = (file[name] for name in ("labels", "predicted", "ids"))
    assert ids.tolist() == list(range(21)), "each sample once, whatever fills the ranks' last batches"
    assert labels.tolist() == open_store(tree, "val").labels.tolist()
    assert (labels == predicted).sum() == expected[1]
    confusion = confusion_matrix(labels, predicted)
    assert scores[0][4] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores[0][5] == confusion.sum(axis=1).tolist()
    assert scores[0][6] == confusion.diagonal().tolist()


def test_balanced_accuracy_leaves_out_classes_without_samples() -> None:
    score = Score(samples=12, right=7, right5=12, loss_sum=1.0, class_samples=(8, 4, 0), class_right=(6, 1, 0))
    assert score.balanced == pytest.approx(balanced_accuracy_score([0] * 8 + [1] * 4, [0] * 6 + [1] * 3 + [0] * 3))
