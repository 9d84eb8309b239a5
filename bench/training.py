"""Training end to end beside the same steps on images that are there already, and what bounds it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import timm

from bench.options import check_positive
from bench.rows import append_rates
from bench.steps import TimedStep
from bench.timing import measure
from convert.photographs import make_demo_sets
from loaders import Batch, InputError, Loader, open_loader
from twistnet.distributed import choose_device
from twistnet.precision import Precision, use_fast_kernels
from twistnet.recipes import named
from twistnet.step import Compile

END_TO_END, LOADER, SYNTHETIC = "end to end", "loader alone", "steps on one batch"


def train(
    *,
    data_dir: Path | None = None,
    model: str = "twistnet18",
    recipe: str = "guide",
    batch_size: int = 32,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 5.0,
    per_class: int = 100,
    workers: int | None = None,
    compile: Compile = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures training with data beside the same steps without, and adds rows to bench/results/train.csv.

    Args:
        data_dir: as pretrain takes it; photographs that packages ship are cut to ImageNet's sizes unless given.
        model: a name that timm knows.
        recipe: whose augmentation and loss are taken.
        batch_size: images of a step.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each of the three in one round, at least.
        per_class: images of each of the demo's classes, without --data_dir.
        workers: decoding threads; the usable cores unless given.
        compile: as pretrain takes it.
        device: where to train; auto takes a CUDA card where there is one.
    """
    check_positive(
        batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, per_class=per_class, workers=workers
    )
    if not timm.is_model(model):
        raise InputError(f"--model {model} is unknown to timm: name one of its models.")
    where = choose_device(device, 0)
    use_fast_kernels(where)
    settled = named(recipe).with_changes(batch_size=batch_size, size=size)
    dtype = Precision.choose(where, settled.amp).dtype
    augment = dataclasses.replace(settled.train_augment(), dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        data = data_dir or make_demo_sets(Path(folder) / "demo", train_per_class=per_class).photographs
        loader = open_loader(
            data,
            "train",
            batch_size,
            train=True,
            size=size,
            augment=augment,
            device=where,
            crops=settled.crops(),
            num_threads=workers,
        )
        stream = _Endless(loader)
        timed = TimedStep(where, settled, model, compile)
        runs: dict[str, Callable[[], int]] = {
            END_TO_END: lambda: timed(stream.next()),
            LOADER: lambda: len(stream.next().labels),
            SYNTHETIC: timed,
        }
        rates = measure(runs, rounds=rounds, seconds=seconds, device=where)
        options = {"model": model, "recipe": recipe, "batch": batch_size, "size": size, "compile": compile}
        options |= {"decoder": loader.decoder, "store": loader.store, "data": data_dir or "photographs of packages"}
        stream.close()
        loader.close()
    share = rates[END_TO_END].ratio_to(rates[SYNTHETIC])
    bound = "loader" if rates[LOADER].median < rates[SYNTHETIC].median else "step"
    path = append_rates("train", rates, options, where, {name: {"bound_by": bound} for name in rates})
    for name, rate in rates.items():
        print(f"{name}: {rate.median:,.1f} img/s ({rate.low:,.1f} to {rate.high:,.1f}, n={rate.n})")
    print(f"{model} trains from {loader.store} at {share:.1%} of its rate without data; bound by: {bound}.")
    print(f"Rows added to {path}: commit them.")


class _Endless:
    """Batches of one epoch after another."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._epoch = loader, 0
        self._batches = loader.epoch(0)

    def next(self) -> Batch:
        for batch in self._batches:
            return batch
        self._epoch += 1
        self._batches = self._loader.epoch(self._epoch)
        return next(self._batches)

    def close(self) -> None:
        self._batches = iter(())
