"""What a checkpoint costs training: steps with one after every k-th, beside none and beside torch.save in the loop."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from bench.steps import TimedStep
from bench.timing import Rate, measure
from twistnet.building import check_model
from twistnet.checkpoints import LATEST, Checkpoints
from twistnet.distributed import choose_device
from twistnet.precision import use_fast_kernels
from twistnet.recipes import named

OURS, PEER, NONE = "beside training", "torch.save in the loop", "none"


def checkpoint(
    *,
    model: str = "twistnet18",
    batch_size: int = 32,
    size: int = 224,
    every: int = 4,
    rounds: int = 7,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures what training waits for a checkpoint, beside torch.save in the loop, and adds rows to checkpoint.csv.

    Args:
        model: a model that timm knows.
        batch_size: images of a step.
        size: side of the images in pixels.
        every: steps to a checkpoint; few of them show what its writing takes of the cores.
        rounds: interleaved rounds.
        device: where to train; auto takes a CUDA card where there is one.
    """
    check_positive(batch_size=batch_size, size=size, every=every, rounds=rounds)
    check_results("checkpoint")
    check_model(model)
    where = choose_device(device, 0)
    use_fast_kernels(where)
    with tempfile.TemporaryDirectory() as folder:
        rates, calls = checkpoint_rates(where, Path(folder), model, batch_size, size, every, rounds)
    images = every * batch_size
    costs = {name: _cost(rate, rates[NONE], images, every, calls.get(name, [])) for name, rate in rates.items()}
    options = {"model": model, "batch": batch_size, "size": size, "every": every}
    path = append_rates("checkpoint", rates, options, where, costs)
    for name in (OURS, PEER):
        cost = costs[name]
        print(
            f"{name}: {cost['stall_ms']} ms a checkpoint ({cost['stall_low']} to {cost['stall_high']}, n={rounds}), "
            f"{cost['percent_of_a_step']} % of a step; its call takes {cost['call_ms']} ms, "
            f"{cost['call_percent']} %"
        )
    print(added(path))


def checkpoint_rates(
    device: torch.device, folder: Path, model: str, batch_size: int, size: int, every: int, rounds: int
) -> tuple[dict[str, Rate], dict[str, list[float]]]:
    """Images a second with either kind of checkpoint and with none, and the seconds of each call in the loop.

    The state is what a run saves of the guide's recipe: weights, momentum and statistics.
    """
    recipe = named("guide").with_changes(batch_size=batch_size, size=size, amp=device.type == "cuda")
    step = TimedStep(device, recipe, model, "off")
    checkpoints = Checkpoints(folder, print)
    calls: dict[str, list[float]] = {OURS: [], PEER: []}

    def with_ours() -> None:
        checkpoints.save(step.state(), (LATEST,))

    def with_peer() -> None:
        with (folder / "peer.pt").open("wb") as file:
            torch.save(step.state(), file)
            file.flush()
            os.fsync(file.fileno())

    def steps(name: str, save: Callable[[], None] | None) -> Callable[[], int]:
        def run() -> int:
            if save is not None:  # before the steps, which then share the cores with what is written
                began = time.perf_counter()
                save()
                calls[name].append(time.perf_counter() - began)
            return sum(step() for _ in range(every))

        return run

    def at_rest(_: str) -> None:
        checkpoints.finish(600)  # what is written beside one round is none of the next one's
        step.losses.clear()

    runs = {OURS: steps(OURS, with_ours), PEER: steps(PEER, with_peer), NONE: steps(NONE, None)}
    try:
        return measure(runs, rounds=rounds, seconds=0, device=device, before=at_rest), calls
    finally:
        checkpoints.close()


def _cost(rate: Rate, without: Rate, images: int, every: int, calls: list[float]) -> Mapping[str, Any]:
    """Columns: what a checkpoint adds to its steps, of rounds side by side, and what its call in the loop takes."""
    pairs = list(zip(rate.each, without.each, strict=True))
    call_ms = 1e3 * statistics.median(calls[1:]) if calls[1:] else 0.0  # the first takes the memory
    step_ms = 1e3 * images / every / without.median
    added = [1e3 * images * (1 / ours - 1 / none) for ours, none in pairs]
    shares = [100 * every * (none / ours - 1) for ours, none in pairs]
    return {
        "stall_ms": round(statistics.median(added), 1),
        "stall_low": round(min(added), 1),
        "stall_high": round(max(added), 1),
        "percent_of_a_step": round(statistics.median(shares), 2),
        "call_ms": round(call_ms, 1),
        "call_percent": round(100 * call_ms / step_ms, 2),
    }
