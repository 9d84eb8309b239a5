"""The parts of a training run, each alone, and the run itself, to be timed against each other."""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bench.data import copied
from bench.steps import TimedStep
from bench.timing import Rate, measure
from loaders import Batch, transfer
from loaders.loader import BatchLoader, Plan

END_TO_END, LOADER, STEP = "end to end", "loader alone", "steps on one batch"
READ, DECODE, UPLOAD, AUGMENT = "read alone", "decode alone", "upload alone", "augment alone"
# Where the processors train, both at once on the same cores, each without waiting for the other.
STEP_BESIDE, DECODE_BESIDE = "steps beside decoding", "decode beside steps"
# The same by the names that stages have in a simulation and as bounds.
ALONE = {"read": READ, "decode": DECODE, "upload": UPLOAD, "augment": AUGMENT, "step": STEP}
BESIDE = {"decode": DECODE_BESIDE, "step": STEP_BESIDE}
_FILLING = 6  # batches until a loader's queues are as they will stay
_KEPT = 4  # batches that the stages alone work on in turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Something to time.

    Attributes:
        call: works on a batch; returns how many images.
        begin: called before every round, outside the time: brings queues to where they will stay.
        end: called after it.
    """

    call: Callable[[], int]
    begin: Callable[[], object] = lambda: None
    end: Callable[[], object] = lambda: None


def part_rates(loader: BatchLoader, step: TimedStep, rounds: int, seconds: float) -> dict[str, Rate]:
    """Rates of training, of the loader and its stages, each alone, and of the step, which is last.

    Where the processors train, also those of decoding and of steps at once on the same cores.

    Args:
        loader: that the run would read from; at the end of one of its epochs it goes on with the next.
        step: of the model, on batches of the loader's size.
        rounds: interleaved rounds.
        seconds: of one thing in one round.
    """
    device = loader.plan.device
    with contextlib.ExitStack() as stack:
        runs = _runs(loader, step, stack)
        beside = Beside(decoding(loader.plan))
        if device.type == "cpu":
            runs[STEP_BESIDE] = Run(call=step, begin=beside.begin, end=beside.end)
            stack.callback(beside.end)
        runs[STEP] = Run(call=step)

        def before(name: str) -> None:
            for run in runs.values():
                run.end()
            runs[name].begin()

        calls = {name: run.call for name, run in runs.items()}
        rates = measure(calls, rounds=rounds, seconds=seconds, device=device, before=before)
    if beside.rates:
        last = rates.pop(STEP)
        rates |= {DECODE_BESIDE: Rate.of(beside.rates[1:], cpu_share=rates[STEP_BESIDE].cpu_share), STEP: last}
    return rates


class Beside:
    """Works in the background, over and over.

    Attributes:
        rates: images a second of every time that it did.
    """

    def __init__(self, call: Callable[[], int]) -> None:
        self._call = call
        self._thread: threading.Thread | None = None
        self.rates: list[float] = []

    def begin(self) -> None:
        """Starts to work."""
        self._ending = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the work, if there is any."""
        self._ending = True
        if self._thread:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        began, images = time.perf_counter(), 0
        while not self._ending or not images:
            images += self._call()
        self.rates.append(images / (time.perf_counter() - began))


def _runs(loader: BatchLoader, step: TimedStep, stack: contextlib.ExitStack) -> dict[str, Run]:
    plan = loader.plan
    trained, loaded = _Endless(loader), _Endless(loader)
    stack.callback(trained.close)
    stack.callback(loaded.close)

    def end_to_end() -> int:
        return step(trained.next())

    def load() -> int:
        return len(loaded.next().labels)

    runs = {END_TO_END: Run(call=end_to_end, begin=_some(end_to_end)), LOADER: Run(call=load, begin=_some(load))}
    runs |= {READ: Run(call=reading(plan, stack)), DECODE: Run(call=decoding(plan))}
    runs[UPLOAD] = Run(call=uploading(plan))
    if plan.augment:
        runs[AUGMENT] = Run(call=augmenting(plan))
    return runs


def _some(call: Callable[[], int]) -> Callable[[], object]:
    return lambda: [call() for _ in range(_FILLING)]


def _ids(plan: Plan) -> Iterator[np.ndarray]:
    """Of batch after batch."""
    for epoch in itertools.count():
        for step in range(len(plan.order)):
            yield plan.order.slice(epoch, step, plan.rank, plan.world_size)[0]


def reading(plan: Plan, stack: contextlib.ExitStack) -> Callable[[], int]:
    """Two batches at once, as the loader does."""
    ids, pool = _ids(plan), stack.enter_context(ThreadPoolExecutor(2))

    def read(samples: np.ndarray) -> int:
        located = plan.store.locate(samples)
        some = located if located is not None else [plan.store.read(sample) for sample in samples.tolist()]
        for image in some:
            copied(image)
        return len(samples)

    return lambda: sum(pool.map(read, itertools.islice(ids, 2)))


def decoding(plan: Plan) -> Callable[[], int]:
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


def augmenting(plan: Plan) -> Callable[[], int]:
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
