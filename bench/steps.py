"""Training steps on images that are there already: what the model, the loss and the optimiser cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from bench.options import check_positive
from bench.peers import separate_heads
from bench.rows import added, append_rates, check_results
from bench.timing import Rate, measure
from loaders import Batch
from twistnet.buffers import gather_buffers
from twistnet.building import check_model
from twistnet.distributed import World, choose_device
from twistnet.precision import use_fast_kernels
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.stci import MultiHeadSTCI
from twistnet.step import Compile, TrainStep

SEPARATE = "twistnet18_head_by_head"  # as the paper's code computes it
BLOCKS = {"stage 3": (256, 16), "stage 4": (512, 32)}  # channels, and pixels of the image to one of theirs


def step(
    *,
    models: tuple[str, ...] = (SEPARATE, "twistnet18", "resnet18"),
    batch_sizes: tuple[int, ...] = (32,),
    size: int = 224,
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32",),
    compiles: tuple[Literal["off", "on", "graphs"], ...] = ("off",),
    rounds: int = 5,
    seconds: float = 3.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures steps of several models against each other, then the twist block by itself, and adds rows to step.csv.

    Args:
        models: names that timm knows, and twistnet18_head_by_head; ratios are to the last.
        batch_sizes: images of a step, each measured by itself.
        size: side of the images in pixels.
        precisions: of the steps.
        compiles: as pretrain --compile takes it.
        rounds: interleaved rounds.
        seconds: of one model in one round, at least.
        device: where to compute; auto takes a CUDA card where there is one.
    """
    check_positive(size=size, rounds=rounds, seconds=seconds, batch_sizes=min(batch_sizes, default=0))
    check_results("step")
    for name in models:
        if name != SEPARATE:
            check_model(name)
    where = choose_device(device, 0)
    use_fast_kernels(where)
    for options, rates in step_rates(where, models, batch_sizes, size, precisions, compiles, rounds, seconds):
        path = append_rates("step", {f"step: {name}": rate for name, rate in rates.items()}, options, where)
        _print(rates, options)
    for options, rates in block_rates(where, batch_sizes, size, rounds, seconds):
        path = append_rates("step", {f"block: {name}": rate for name, rate in rates.items()}, options, where)
        _print(rates, options)
    print(added(path))


def step_rates(
    device: torch.device,
    models: Sequence[str],
    batch_sizes: Sequence[int],
    size: int,
    precisions: Sequence[str],
    compiles: Sequence[Compile],
    rounds: int,
    seconds: float,
) -> Iterator[tuple[dict[str, Any], dict[str, Rate]]]:
    """Options and rates of every combination, the models of each interleaved."""
    for batch_size, precision, compiling in itertools.product(batch_sizes, precisions, compiles):
        amp = precision == "bfloat16"
        recipe = named("guide").with_changes(batch_size=batch_size, size=size, amp=amp)
        runs = {name: TimedStep(device, recipe, name, compiling) for name in models}
        options = {"batch": batch_size, "size": size, "precision": precision, "compile": compiling}
        yield options, measure(runs, rounds=rounds, seconds=seconds, device=device)


class TimedStep:
    """A step on one random batch, to be called for as many images as it returns.

    Attributes:
        losses: of every call so far, on the device.
    """

    def __init__(self, device: torch.device, recipe: Recipe, name: str, compiling: Compile, lr: float = 0.01) -> None:
        torch.manual_seed(0)
        model: nn.Module = separate_heads.twistnet18() if name == SEPARATE else timm.create_model(name)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._world = World(rank=0, world_size=1, device=device)
        self._model = model.train()
        self._step = TrainStep(self._model, recipe, self._world, compiling=compiling)
        self._lr = lr
        count, dtype = recipe.batch_size, self._step.precision.dtype
        images = torch.randn(count, 3, recipe.size, recipe.size, device=device, dtype=dtype)
        labels, weight = torch.randint(1000, (count,), device=device), torch.ones(count, device=device)
        self.batch = Batch(
            images.contiguous(memory_format=torch.channels_last),
            labels,
            labels,
            weight,
            weight > 0,
            torch.arange(count),
        )
        self.losses: list[Tensor] = []

    def __call__(self, batch: Batch | None = None) -> int:
        batch = self.batch if batch is None else batch
        self._step(batch, len(self.losses), self._lr, lambda _, loss, __: self.losses.append(loss))
        return len(batch.labels)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: all tensors that a run saves."""
        buffers = gather_buffers(self._step.models, self._world)
        return {"model": self._model.state_dict(), "buffers": buffers, **self._step.state()}


def block_rates(
    device: torch.device, batch_sizes: Sequence[int], size: int, rounds: int, seconds: float
) -> Iterator[tuple[dict[str, Any], dict[str, Rate]]]:
    """Options and rates of the interactions alone, forward and backward, beside the formulation head by head."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for batch_size, (stage, (channels, stride)) in itertools.product(batch_sizes, BLOCKS.items()):
        side = -(-size // stride)
        shape = (batch_size, channels, side, side)
        h = torch.randn(shape, device=device, dtype=dtype).relu().contiguous(memory_format=torch.channels_last)
        grad = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        modules: Mapping[str, nn.Module] = {
            "in few passes": MultiHeadSTCI(channels),
            "head by head": separate_heads.SeparateHeads(channels),
        }
        runs = {name: _there_and_back(module, h, grad) for name, module in modules.items()}
        options = {"batch": batch_size, "size": size, "stage": stage, "precision": str(dtype).removeprefix("torch.")}
        yield options, measure(runs, rounds=rounds, seconds=seconds / 3, device=device)


def _there_and_back(module: nn.Module, h: Tensor, grad: Tensor) -> Callable[[], int]:
    module.to(h.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    h = h.detach().requires_grad_()

    def run() -> int:
        with torch.autocast(h.device.type, dtype=torch.bfloat16, enabled=h.dtype == torch.bfloat16):
            out = module(h)
        out.backward(grad.to(out.dtype))
        h.grad = None
        module.zero_grad(set_to_none=True)
        return len(h)

    return run


def _print(rates: Mapping[str, Rate], options: Mapping[str, Any]) -> None:
    reference = list(rates.values())[-1]
    # A stage's value is its name, "stage 3".
    about = ", ".join(str(value) if key == "stage" else f"{key} {value}" for key, value in options.items())
    *others, last = rates
    for name, rate in rates.items():
        beside = f", {1 / rate.ratio_to(reference):.3f} times the time of {last}" if name in others else ""
        print(f"{name}, {about}: {rate.median:,.1f} img/s ({rate.low:,.1f} to {rate.high:,.1f}, n={rate.n}){beside}")
