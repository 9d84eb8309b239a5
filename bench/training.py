"""Training end to end, beside each of its stages alone: what bounds it, and by how much."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch

from bench.costs import Cost, Costs
from bench.data import copied, tree_of
from bench.options import check_positive
from bench.rows import append_rates
from bench.simulation import Outcome, simulate
from bench.steps import TimedStep
from bench.timing import Rate, measure
from loaders import Batch, InputError, open_loader, transfer
from loaders.cores import usable_cores
from loaders.loader import BatchLoader, Plan
from twistnet.distributed import choose_device
from twistnet.precision import Precision, use_fast_kernels
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import Compile

END_TO_END, LOADER, STEP = "end to end", "loader alone", "steps on one batch"
READ, DECODE, UPLOAD, AUGMENT = "read alone", "decode alone", "upload alone", "augment alone"
_LOOK_AHEAD = 3
_FILLING = _LOOK_AHEAD + 3  # batches until the loader's queues are as they will stay
_KEPT = 4  # batches that the stages alone work on in turn


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
    if not timm.is_model(model):
        raise InputError(f"--model {model} is unknown to timm: name one of its models.")
    where = choose_device(device, 0)
    use_fast_kernels(where)
    workers = usable_cores() if workers is None else workers
    settled = named(recipe).with_changes(batch_size=batch_size, size=size)
    with contextlib.ExitStack() as stack:
        data = data_dir or stack.enter_context(tree_of(None, images))[0]
        loader = stack.enter_context(open_for(data, settled, where, workers))
        runs = stages_of(loader, TimedStep(where, settled, model, compile), stack)
        rates = measure(
            {name: run.call for name, run in runs.items()},
            rounds=rounds,
            seconds=seconds,
            device=where,
            before=lambda name: runs[name].fill(),
        )
        options = {"model": model, "recipe": recipe, "batch": batch_size, "size": size, "compile": compile}
        options |= {"decoder": loader.decoder, "store": loader.store, "data": data.name, "workers": workers}
    share = rates[END_TO_END].ratio_to(rates[STEP])
    outcome = simulated(rates, batch_size, on_card=where.type == "cuda")
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
    print(f"Rows added to {path}: commit them.")


def simulated(rates: Mapping[str, Rate], batch_size: int, *, on_card: bool) -> Outcome:
    """What the stages measured alone come to together, where they share this machine."""
    names = {READ: "read", DECODE: "decode", UPLOAD: "upload", AUGMENT: "augment", STEP: "step"}
    stages = {short: Cost.of(rates[name]) for name, short in names.items() if name in rates}
    batches = Costs(stages=stages, on_card=on_card).batches(batch_size, _LOOK_AHEAD)
    return simulate(batches, {"cores": float(usable_cores()), "disk": 1.0, "link": 1.0, "card": 1.0})


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
        look_ahead=_LOOK_AHEAD,
    )
    assert isinstance(loader, BatchLoader)
    return loader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Something to time.

    Attributes:
        call: works on a batch; returns how many images.
        fill: called before every round, outside the time: brings queues to where they will stay.
    """

    call: Callable[[], int]
    fill: Callable[[], object] = lambda: None


def stages_of(loader: BatchLoader, step: TimedStep, stack: contextlib.ExitStack) -> Mapping[str, Run]:
    """Training, the loader and its stages, each alone, and the step, which is last."""
    plan = loader.plan
    trained, loaded = _Endless(loader), _Endless(loader)
    stack.callback(trained.close)
    stack.callback(loaded.close)

    def end_to_end() -> int:
        return step(trained.next())

    def load() -> int:
        return len(loaded.next().labels)

    runs = {END_TO_END: Run(call=end_to_end, fill=_some(end_to_end)), LOADER: Run(call=load, fill=_some(load))}
    runs |= {READ: Run(call=_reading(plan, stack)), DECODE: Run(call=_decoding(plan))}
    if plan.device.type == "cuda":
        runs[UPLOAD] = Run(call=uploading(plan))
    if plan.augment:
        runs[AUGMENT] = Run(call=_augmenting(plan))
    return runs | {STEP: Run(call=step)}


def _some(call: Callable[[], int]) -> Callable[[], object]:
    return lambda: [call() for _ in range(_FILLING)]


def _ids(plan: Plan) -> Iterator[np.ndarray]:
    """Of batch after batch."""
    for epoch in itertools.count():
        for step in range(len(plan.order)):
            yield plan.order.slice(epoch, step, plan.rank, plan.world_size)[0]


def _reading(plan: Plan, stack: contextlib.ExitStack) -> Callable[[], int]:
    """Two batches at once, as the loader does."""
    ids, pool = _ids(plan), stack.enter_context(ThreadPoolExecutor(2))

    def read(samples: np.ndarray) -> int:
        located = plan.store.locate(samples)
        some = located if located is not None else [plan.store.read(sample) for sample in samples.tolist()]
        for image in some:
            copied(image)
        return len(samples)

    return lambda: sum(pool.map(read, itertools.islice(ids, 2)))


def _decoding(plan: Plan) -> Callable[[], int]:
    """Of bytes that are in memory."""
    keys = list(itertools.islice(_ids(plan), _KEPT))
    batches = itertools.cycle([(ids, [_copy(plan.store.read(sample)) for sample in ids.tolist()]) for ids in keys])
    shape = (plan.batch_size, plan.size, plan.size, 3)
    out: Any = torch.empty(shape, dtype=torch.uint8, device=plan.device if plan.decoder.on_device else "cpu")
    out = out if plan.decoder.on_device else out.numpy()

    def decode() -> int:
        ids, data = next(batches)
        sizes, _ = plan.decoder.sizes(data)
        boxes = plan.crops.boxes(0, 0, ids, sizes, train=True)
        plan.decoder.decode(data, boxes, ids % 2 == 0, out)
        return len(ids)

    return decode


def _copy(image: Any) -> Any:
    return image.copy() if isinstance(image, np.ndarray) else bytes(image)


def uploading(plan: Plan) -> Callable[[], int]:
    shape = (plan.batch_size, plan.size, plan.size, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=plan.device.type == "cuda")

    def upload() -> int:
        transfer.upload(pixels, plan.device)
        return plan.batch_size

    return upload


def _augmenting(plan: Plan) -> Callable[[], int]:
    assert plan.augment is not None
    shape = (plan.batch_size, plan.size, plan.size, 3)
    pixels = torch.randint(256, shape, dtype=torch.uint8, device=plan.device)
    ids, draw = _ids(plan), functools.partial(plan.augment.draw, plan.order.seed)
    augment = plan.augment

    def run() -> int:
        these = next(ids)
        augment(pixels, draw(0, these, plan.size))
        return len(these)

    return run


class _Endless:
    """Batches of one epoch after another."""

    def __init__(self, loader: BatchLoader) -> None:
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
