"""Repeated augmentation through the loader: copies with draws of their own, of images that are read once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loader import batches, by_pillow

from loaders import draws, open_store
from loaders.augment import Augment, Mix
from loaders.order import Order
from loaders.tree import TreeStore


@pytest.mark.parametrize("decoder", ["native", "reference", "device"])
def test_repeats_show_each_image_with_other_draws_and_decode_it_once(
    tree: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    right = TreeStore.locate
    monkeypatch.setattr(TreeStore, "locate", lambda store, ids: (read.append(len(ids)), right(store, ids))[1])
    store = open_store(tree, "train")
    parts = batches(tree, 15, epoch=1, repeats=3, decoder=decoder, augment=None)
    assert read == [5] * len(parts)
    for step, batch in enumerate(parts):
        ids, valid, keys = Order(num_samples=51, global_batch=15, seed=5, repeats=3).slice(1, step, 0, 1)
        assert batch.ids.tolist() == ids.tolist()
        assert batch.valid.tolist() == valid.tolist()
        mirrored, uniforms = draws.flips(5, 1, keys, 0.5), draws.crop_uniforms(5, 1, keys)
        for place, sample in enumerate(ids):
            expected = by_pillow(store.key(int(sample)), uniforms[place], mirrored[place])
            np.testing.assert_array_equal(batch.images[place].numpy(), expected)
    augmented = batches(tree, 12, repeats=3, augment=Augment(mix=Mix(group=4)))
    for batch in augmented:
        pairs = zip(batch.labels.tolist(), batch.partner.tolist(), strict=True)
        assert sum(own != other for own, other in pairs) > 0


def test_a_bad_image_is_replaced_in_all_its_copies(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    store = open_store(copy, "train")
    bad = int(Order(num_samples=51, global_batch=6, seed=5, repeats=2).slice(0, 1, 0, 1)[0][1])
    Path(store.key(bad)).write_bytes(b"no image")
    parts = batches(copy, 6, repeats=2, max_bad=0.1)
    places = [place for place, valid in enumerate(parts[1].valid.tolist()) if not valid]
    assert places == [1, 4], "the image and its copy"
    for one, other in zip(parts, batches(tree, 6, repeats=2), strict=True):
        rest = one.valid
        assert torch.equal(one.images[rest], other.images[rest])
