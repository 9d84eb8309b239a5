"""`twistnet augment show`: pictures of a recipe's augmentation."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

import loaders
from loaders import InputError
from twistnet import recipes
from twistnet.augment_sheets import batch_sheet, most_colourful, operations_sheet

_IMAGES = 16


def show(
    *,
    data_dir: Path,
    recipe: str = "guide",
    split: str = "train",
    policy: str | None = None,
    size: int | None = None,
    out: Path = Path("augmentation"),
    epoch: int = 0,
    seed: int = 0,
) -> None:
    """Draws every operation at several magnitudes, and a training batch as the model sees it.

    Writes operations.png and batch.png: under an operation's pictures stand its magnitudes, under a batch's the
    labels and, where two images are mixed, the weight of each.

    Args:
        data_dir: the data set, a tree or a converted one; its training images are shown.
        recipe: guide, a1, a2, a3, dtd, demo or demo_dtd.
        split: of the data set; of one with folds train1, train2, ...
        policy: instead of the recipe's, as rand-m7-n2-mstd0.5-inc1 or trivialaugment; docs/augment.md lists them.
        size: side of the images in pixels; the recipe's unless given.
        out: folder for the pictures.
        epoch: whose order and draws are shown, from 0.
        seed: of the order and the draws.
    """
    named = recipes.named(recipe).with_changes(policy=policy, size=size, seed=seed)
    if epoch < 0:
        raise InputError(f"--epoch {epoch} is too small: epochs count from 0.")
    whole = math.lcm(named.mix_group, named.repeats)  # so that no group and no image's views are cut off
    count = -(-_IMAGES // whole) * whole
    augment = dataclasses.replace(named.train_augment(), dtype=torch.float32)
    with loaders.open_loader(
        data_dir,
        split,
        count,
        train=True,
        size=named.size,
        augment=augment,
        seed=named.seed,
        shuffle=named.shuffle,
        crops=named.crops(),
        repeats=named.repeats,
    ) as loader:
        batch = next(loader.epoch(epoch))
        classes = loader.classes
    with loaders.open_loader(
        data_dir, split, _IMAGES, train=True, size=named.size, seed=named.seed, crops=named.crops()
    ) as loader:
        image = most_colourful(next(loader.epoch(epoch)).images)
    if augment.policy is None:
        print("No operations are drawn: the policy is none.")
    else:
        print(f"Every operation: {operations_sheet(augment.policy, image, out / 'operations.png')}")
    print(f"A training batch: {batch_sheet(batch, augment, classes, out / 'batch.png')}")
