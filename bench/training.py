"""Training end to end, beside each of its stages alone: what bounds it, and by how much."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from bench.costs import Cost, Costs, in_company
from bench.data import tree_of
from bench.options import check_positive
from bench.parts import ALONE, BESIDE, DECODE, END_TO_END, STEP, part_rates
from bench.rows import added, append_rates, check_results
from bench.simulation import Outcome, simulate
from bench.steps import TimedStep
from loaders import open_loader
from loaders.cores import usable_cores
from loaders.loader import BatchLoader
from twistnet.building import check_model
from twistnet.distributed import choose_device
from twistnet.precision import Precision, use_fast_kernels
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import Compile

_LOOK_AHEAD = 3
_NOISE = 0.05  # of a rate, that rounds of some seconds keep within on a quiet machine


def train(
    *,
    data_dir: Path | None = None,
    model: str = "twistnet18",
    recipe: str = "guide",
    batch_size: int = 32,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 5.0,
    images: int = 2000,
    workers: int | None = None,
    compile: Compile = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures training with data beside each of its stages alone, and adds rows to bench/results/train.csv.

    Args:
        data_dir: as pretrain takes it; photographs that packages ship are cut to ImageNet's sizes unless given.
        model: a name that timm knows.
        recipe: whose augmentation and loss are taken.
        batch_size: images of a step.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each thing in one round, at least.
        images: to make, without --data_dir.
        workers: decoding threads; the usable cores unless given.
        compile: as pretrain takes it.
        device: where to train; auto takes a CUDA card where there is one.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, images=images, workers=workers)
    check_results("train")
    check_model(model)
    where = choose_device(device, 0)
    use_fast_kernels(where)
    workers = usable_cores() if workers is None else workers
    settled = named(recipe).with_changes(batch_size=batch_size, size=size)
    with contextlib.ExitStack() as stack:
        data = data_dir or stack.enter_context(tree_of(None, images))[0]
        loader = stack.enter_context(open_for(data, settled, where, workers))
        rates = part_rates(loader, TimedStep(where, settled, model, compile), rounds, seconds)
        options = {"model": model, "recipe": recipe, "batch": batch_size, "size": size, "compile": compile}
        options |= {"decoder": loader.decoder, "store": loader.store, "data": data.name, "workers": workers}
    share = rates[END_TO_END].ratio_to(rates[STEP])
    costs = {name: Cost.of(rate) for name, rate in rates.items()}
    outcome = simulated(costs, batch_size, on_card=where.type == "cuda", cores=usable_cores())
    predicted, bound = outcome.batches_per_s * batch_size, outcome.bound
    extra = {name: {"bound_by": bound, "simulated": round(predicted, 1)} for name in rates}
    path = append_rates("train", rates, options, where, extra)
    for name, rate in rates.items():
        print(
            f"{name}: {rate.median:,.1f} img/s ({rate.low:,.1f} to {rate.high:,.1f}, n={rate.n}), "
            f"{rate.cpu_share:.0%} of the cores"
        )
    print(f"A simulation of the stages measured alone: {predicted:,.1f} img/s end to end.")
    print(f"{model} trains from {loader.store} at {share:.1%} of its rate without data; bound by: {bound}.")
    spread = max((rate.high - rate.low) / rate.median for rate in (rates[END_TO_END], rates[STEP]))
    if share > 1 + _NOISE or spread > 2 * _NOISE:
        print(f"Rounds differ by up to {spread:.0%}, so that this says little: raise --seconds on a quieter machine.")
    print(added(path))


def simulated(parts: Mapping[str, Cost], batch_size: int, *, on_card: bool, cores: int) -> Outcome:
    """What parts that were measured alone come to together.

    Args:
        parts: by their names in `bench.parts`.
        batch_size: of a step.
        on_card: whether steps and augmentation are a card's.
        cores: that there are.
    """
    stages = {stage: parts[name] for stage, name in ALONE.items() if name in parts}
    costs = Costs(stages=stages, on_card=on_card, in_company=shares_in_company(parts, cores))
    capacities = {"cores": float(cores), "disk": 1.0, "link": 1.0, "card": 1.0}
    return simulate(costs.batches(batch_size, _LOOK_AHEAD), capacities)


def shares_in_company(parts: Mapping[str, Cost], cores: int) -> dict[str, float]:
    """What decoding and steps get done of their shares of the cores, where that was measured; else empty."""
    company = {stage: 1 / parts[name].seconds for stage, name in BESIDE.items() if name in parts}
    return in_company(parts[DECODE], parts[STEP], company, cores) if company else {}


def open_for(data: Path, recipe: Recipe, device: torch.device, workers: int) -> BatchLoader:
    """The loader that pretrain would open on one process."""
    augment = dataclasses.replace(recipe.train_augment(), dtype=Precision.choose(device, recipe.amp).dtype)
    loader = open_loader(
        data,
        "train",
        recipe.batch_size,
        train=True,
        size=recipe.size,
        augment=augment,
        device=device,
        crops=recipe.crops(),
        num_threads=workers,
        repeats=recipe.repeats,
        look_ahead=_LOOK_AHEAD,
    )
    assert isinstance(loader, BatchLoader)
    return loader
