"""What exactness costs: a whole loader whose decoder reads the headers and makes no pixels, in seconds of a core."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from bench.data import in_form, tree_of
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.timing import Rate
from loaders.crops import CropPolicy
from loaders.loader import BatchLoader, Plan
from loaders.native.decoder import NativeDecoder
from loaders.opening import open_store
from loaders.order import Order
from loaders.types import Failures

CPU = torch.device("cpu")
GOAL = 5000  # images a second that the share of a core is stated for


class NoPixels(NativeDecoder):
    """Reads sizes, and leaves what is in the output."""

    name = "none"

    def decode(self, *_: Any, **__: Any) -> Failures:
        return {}


def bookkeeping(
    *, data_dir: Path | None = None, images: int = 3000, batch_size: int = 256, rounds: int = 5, epochs: int = 20
) -> None:
    """Measures order, draws, queues and header reading of a loader over shards, and adds a row.

    Args:
        data_dir: a tree with a folder train/; photographs that packages ship are cut to ImageNet's sizes unless given.
        images: to make, without --data_dir.
        batch_size: images of a batch.
        rounds: of all the epochs.
        epochs: of one round.
    """
    check_positive(images=images, batch_size=batch_size, rounds=rounds, epochs=epochs)
    check_results("bookkeeping")
    torch.set_num_threads(1)
    with tree_of(data_dir, images) as (tree, root):
        store = open_store(in_form("shards", tree, root, 1), "train")
        plan = Plan(
            store=store,
            decoder=NoPixels(),
            order=Order(num_samples=len(store), global_batch=batch_size),
            crops=CropPolicy(),
            augment=None,
            train=True,
            size=224,
            device=CPU,
            rank=0,
            world_size=1,
            max_bad=0.0,
            verify=False,
            form="shards",
            choice="",
        )
        loader = BatchLoader(plan, num_threads=2, look_ahead=3)
        found = [_images_per_core_second(loader, range(first, first + epochs)) for first in range(rounds + 1)][1:]
        loader.close()
    rate = Rate.of(found)
    name = "order, draws, headers and queues"
    cost = {"us_per_image": round(1e6 / rate.median, 2), "percent_of_a_core": round(100 * GOAL / rate.median, 2)}
    file = append_rates(
        "bookkeeping", {name: rate}, {"data": tree.name, "batch": batch_size, "goal": GOAL}, CPU, {name: cost}
    )
    print(
        f"{name}: {cost['us_per_image']} us of a core an image (n={rounds}, {1e6 / rate.high:.2f} to "
        f"{1e6 / rate.low:.2f}), {cost['percent_of_a_core']} % of a core at {GOAL:,} img/s"
    )
    print(added(file))


def _images_per_core_second(loader: BatchLoader, epochs: range) -> float:
    begun, images = time.process_time(), 0
    for epoch in epochs:
        images += sum(int(batch.valid.sum()) for batch in loader.epoch(epoch))
    return images / (time.process_time() - begun)
