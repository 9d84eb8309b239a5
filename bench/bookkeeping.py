"""What exactness costs: a whole loader whose decoder reads the headers and makes no pixels, in seconds of a core."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.loaders import make_set
from bench.options import check_positive
from bench.rows import append_rates
from bench.timing import Rate
from convert.photographs import make_demo_sets
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


def bookkeeping(*, rounds: int = 5, batch_size: int = 256, per_class: int = 300, epochs: int = 20) -> None:
    """Measures order, draws, queues and header reading of a loader over shards, and adds a row.

    Args:
        rounds: of all the epochs.
        batch_size: images of a batch.
        per_class: images of each of the demo's classes.
        epochs: of one round.
    """
    check_positive(rounds=rounds, batch_size=batch_size, per_class=per_class, epochs=epochs)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tree = make_demo_sets(Path(folder) / "demo", train_per_class=per_class).photographs
        store = open_store(make_set("shards", tree, Path(folder), 1), "train")
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
    rate = Rate(n=rounds, median=statistics.median(found), low=min(found), high=max(found))
    name = "order, draws, headers and queues"
    cost = {"us_per_image": round(1e6 / rate.median, 2), "percent_of_a_core": round(100 * GOAL / rate.median, 2)}
    file = append_rates("bookkeeping", {name: rate}, {"batch": batch_size, "goal": GOAL}, CPU, {name: cost})
    print(
        f"{name}: {cost['us_per_image']} us of a core an image (n={rounds}, {1e6 / rate.high:.2f} to "
        f"{1e6 / rate.low:.2f}), {cost['percent_of_a_core']} % of a core at {GOAL:,} img/s"
    )
    print(f"A row added to {file}: commit it.")


def _images_per_core_second(loader: BatchLoader, epochs: range) -> float:
    begun, images = time.process_time(), 0
    for epoch in epochs:
        images += sum(int(batch.valid.sum()) for batch in loader.epoch(epoch))
    return images / (time.process_time() - begun)
