"""`python -m bench gpu`: every check that wants a card, correctness first, then the rates, in a few minutes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from bench.options import check_positive
from bench.rows import append_rates
from bench.timing import Rate, measure
from convert.photographs import make_demo_sets
from loaders import Batch, InputError, Loader, open_loader
from loaders.augment import Augment
from twistnet.loss import mixed_cross_entropy
from twistnet.optimiser import make_optimiser
from twistnet.precision import Precision
from twistnet.recipe import Recipe, named

CUDA = torch.device("cuda")


def gpu(*, batch_size: int = 256, size: int = 224, rounds: int = 5, seconds: float = 3.0) -> None:
    """Checks results on a CUDA card against the CPU's, then measures rates and adds rows to bench/results/gpu.csv.

    Args:
        batch_size: images of a step.
        size: side of the images in pixels.
        rounds: interleaved rounds of a measurement.
        seconds: of one thing in one round.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds)
    if not torch.cuda.is_available():
        raise InputError("this machine has no CUDA card: run python -m bench gpu where there is one.")
    recipe = named("guide").with_changes(size=size, batch_size=batch_size, amp=True)
    with tempfile.TemporaryDirectory() as folder:
        data = make_demo_sets(Path(folder), progress=False).photographs
        check_model(CUDA)
        check_augment(CUDA, recipe.with_changes(batch_size=32))
        check_loader(CUDA, data, recipe.with_changes(batch_size=32))
        check_step(CUDA, recipe.with_changes(batch_size=32))
        print("All results on the card are right.")
        options = {"batch": batch_size, "size": size, "dtype": Precision.choose(CUDA, amp=True).dtype}
        for name, rates in (
            ("train step", step_rates(CUDA, recipe, rounds, seconds)),
            ("augment", augment_rates(CUDA, recipe, rounds, seconds)),
            ("loader", loader_rates(CUDA, data, recipe, rounds, seconds)),
        ):
            path = append_rates("gpu", {f"{name}: {what}": rate for what, rate in rates.items()}, options, CUDA)
            for what, rate in rates.items():
                print(f"{name}, {what}: {rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n})")
    print(f"Rows added to {path}: commit them.")


def check_model(device: torch.device) -> None:
    """TwistNet's logits and gradients in float32 are the CPU's, without TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        results = []
        for where in (torch.device("cpu"), device):
            torch.manual_seed(0)
            model = timm.create_model("twistnet18", num_classes=47).to(where, memory_format=torch.channels_last)
            torch.manual_seed(1)
            images = torch.randn(8, 3, 96, 96).to(where, memory_format=torch.channels_last)
            logits = model(images)
            logits.square().mean().backward()
            results.append((logits.detach().cpu(), model.layer4[1].conv2.weight.grad.cpu()))
    for what, ours, right in zip(("logits", "gradients"), results[1], results[0], strict=True):
        _expect_close(f"TwistNet's {what}", ours, right, 1e-3)


def check_augment(device: torch.device, recipe: Recipe) -> None:
    """RandAugment, mixing and normalisation in float32 are the CPU's."""
    augment = recipe.train_augment()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (32, recipe.size, recipe.size, 3), np.uint8))
    draws = augment.draw(0, 0, np.arange(32), recipe.size)
    _expect_close("augmentation", augment(pixels.to(device), draws).cpu(), augment(pixels, draws), 0.05)


def check_loader(device: torch.device, data: Path, recipe: Recipe) -> None:
    """Batches on the card are the CPU's, also where the consumer reads each one late."""
    epochs = [
        open_loader(data, "train", 32, train=True, size=64, augment=recipe.train_augment(), device=where)
        for where in ("cpu", device)
    ]
    kept = []
    for on_cpu, on_card in zip(*(loader.epoch(0) for loader in epochs), strict=True):
        if device.type == "cuda":
            torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]  # the card falls behind: an early reuse of memory would show
        kept.append((on_cpu, Batch(*(tensor.clone() for tensor in on_card))))
    for on_cpu, on_card in kept:
        _expect_close("the loader's images", on_card.images.cpu(), on_cpu.images, 0.05)
        for name in ("labels", "partner", "weight", "valid"):
            _expect_close(f"the loader's {name}", getattr(on_card, name).cpu(), getattr(on_cpu, name), 0.0)
    for loader in epochs:
        loader.close()


def check_step(device: torch.device, recipe: Recipe) -> None:
    """A few steps in mixed precision lower the loss of one batch."""
    step, losses = training_step(device, recipe, "twistnet18", lr=0.02)
    for _ in range(20):
        step()
    first, last = float(losses[0]), float(losses[-1])
    if not last < 0.9 * first:
        raise InputError(
            f"20 steps on one batch took the loss from {first:.3f} to {last:.3f} only: look into the step."
        )


def step_rates(device: torch.device, recipe: Recipe, rounds: int, seconds: float) -> dict[str, Rate]:
    """Training steps of TwistNet-18 beside timm's ResNet-18, on images that are there already."""
    runs = {name: training_step(device, recipe, name, lr=0.01)[0] for name in ("twistnet18", "resnet18")}
    return measure(runs, rounds=rounds, seconds=seconds, device=device)


def augment_rates(device: torch.device, recipe: Recipe, rounds: int, seconds: float) -> dict[str, Rate]:
    """The guide's augmentation beside normalisation alone."""
    pixels = torch.randint(0, 256, (recipe.batch_size, recipe.size, recipe.size, 3), dtype=torch.uint8, device=device)

    def run_of(augment: Augment) -> Callable[[], int]:
        augment = dataclasses.replace(augment, dtype=Precision.choose(device, recipe.amp).dtype)
        draws = augment.draw(0, 0, np.arange(recipe.batch_size), recipe.size)
        return lambda: len(augment(pixels, draws))

    runs = {"guide": run_of(recipe.train_augment()), "normalise only": run_of(Augment())}
    return measure(runs, rounds=rounds, seconds=seconds, device=device)


def loader_rates(device: torch.device, data: Path, recipe: Recipe, rounds: int, seconds: float) -> dict[str, Rate]:
    """The whole loader, with the guide's augmentation and without any."""

    augments = {"tree, reference, guide": recipe.train_augment(), "tree, reference, uint8": None}
    with contextlib.ExitStack() as stack:
        runs: dict[str, Callable[[], int]] = {}
        for name, augment in augments.items():
            loader = open_loader(
                data, "train", recipe.batch_size, train=True, size=recipe.size, augment=augment, device=device
            )
            stack.callback(loader.close)
            runs[name] = functools.partial(_epoch_of, loader)
        return measure(runs, rounds=rounds, seconds=seconds, device=device)


def _epoch_of(loader: Loader) -> int:
    for batch in loader.epoch(0):
        del batch
    return loader.num_samples


def training_step(device: torch.device, recipe: Recipe, name: str, lr: float) -> tuple[Callable[[], int], list[Tensor]]:
    """A step on one random batch, and the list that it adds its losses to."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=1000)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, precision = make_optimiser(model, recipe), Precision.choose(device, recipe.amp)
    for group in optimiser.param_groups:
        group["lr"] = lr
    scaler, losses = precision.scaler(), list[Tensor]()
    count = recipe.batch_size
    images = torch.randn(count, 3, recipe.size, recipe.size, device=device, dtype=precision.dtype)
    labels, weight = torch.randint(1000, (count,), device=device), torch.ones(count, device=device)
    batch = Batch(
        images.contiguous(memory_format=torch.channels_last),
        labels,
        labels,
        weight,
        weight > 0,
        torch.arange(count),
    )

    def step() -> int:
        with precision.autocast():
            loss = mixed_cross_entropy(model(batch.images), batch, recipe.label_smoothing)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        return count

    return step, losses


def _expect_close(what: str, ours: Tensor, right: Tensor, tolerance: float) -> None:
    worst = float((ours.double() - right.double()).abs().max())
    if not worst <= tolerance:
        raise InputError(f"{what} differ from the CPU's by {worst:.2g}, more than {tolerance:g}: they are wrong.")
    print(f"{what}: at most {worst:.2g} from the CPU's")
