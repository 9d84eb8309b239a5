"""`python -m bench gpu`: every check that wants a card, correctness first, then the rates, in a few minutes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from bench import gpu_loading, made_set
from bench.checkpoint import checkpoint
from bench.conversion import link
from bench.gpu_augmenting import augment_rates
from bench.options import check_positive
from bench.pixels import PixelStore
from bench.rows import added, append_rates, check_results
from bench.steps import SEPARATE, TimedStep, block_rates, step_rates
from bench.timing import Rate, measure
from bench.upload import upload_rates
from convert.converting import Conversion, convert_split
from convert.images import ImagePolicy
from convert.photographs import make_demo_sets
from convert.sources import find_source
from loaders import Batch, CropPolicy, InputError, Loader, dali_graph, open_loader, open_store
from loaders.augment import Augment, Erase, Mix, ThreeAugment, TimmRandAugment
from loaders.choosing import make_decoder
from loaders.cores import usable_cores
from loaders.encodings import Encoded
from loaders.reference import decoded
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import Compile

CUDA = torch.device("cuda", 0)
THREADS = (2, 8, 16)  # that load
COMPILES: tuple[Compile, ...] = ("off", "on", "graphs")  # a model takes half a minute to compile


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
    check_results("gpu")
    recipe = named("guide").with_changes(size=size, batch_size=batch_size, amp=True)
    with tempfile.TemporaryDirectory() as folder:
        data = make_demo_sets(Path(folder) / "demo", progress=False).photographs
        check_model(CUDA)
        check_augment(CUDA, recipe.with_changes(batch_size=32))
        check_loader(CUDA, data, recipe.with_changes(batch_size=32))
        for compiling in ("off", "graphs"):
            check_step(CUDA, recipe.with_changes(batch_size=32), compiling)
        check_decoders(CUDA, data)
        print("All results on the card are right.")
        options = {"batch": batch_size, "size": size, "dtype": Precision.choose(CUDA, amp=True).dtype}
        for name, more, rates in measured(CUDA, Path(folder), data, recipe, rounds, seconds):
            found = {f"{name}: {what}": rate for what, rate in rates.items()}
            path = append_rates("gpu", found, {**options, **more}, CUDA)  # at once: the next one may fail
            about = "".join(f", {key} {value}" for key, value in more.items())
            for what, rate in found.items():
                print(f"{what}{about}: {rate.median:,.0f} img/s ({rate.low:,.0f} to {rate.high:,.0f}, n={rate.n})")
    print(added(path))
    checkpoint(batch_size=batch_size, size=size, rounds=rounds, device="cuda")


def measured(
    device: torch.device, folder: Path, data: Path, recipe: Recipe, rounds: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any], dict[str, Rate]]]:
    """Names, further options and rates, one after another."""
    on_card = device.type == "cuda"
    for batch_size, compiles in {recipe.batch_size: COMPILES, 4 * recipe.batch_size: COMPILES[1:2]}.items():
        for compiling in compiles if on_card else COMPILES[:1]:
            models = (SEPARATE, "twistnet18", "resnet18") if compiling == "off" else ("twistnet18", "resnet18")
            combination = (batch_size,), recipe.size, ("bfloat16",), (compiling,)
            for more, rates in step_rates(device, models, *combination, min(rounds, 3), seconds / 3):
                yield "train step", more, rates
    for more, rates in block_rates(device, (recipe.batch_size,), recipe.size, min(rounds, 3), seconds):
        yield "block", more, rates
    dtype = Precision.choose(device, recipe.amp).dtype
    batches = recipe.batch_size, 4 * recipe.batch_size
    yield from augment_rates(device, dtype, batches, recipe.size, min(rounds, 3), seconds / 3)
    yield "loader", {}, loader_rates(device, data, recipe, rounds, seconds)
    yield from loading(device, folder, recipe.batch_size, recipe.size, min(rounds, 3), seconds / 2)


def loading(
    device: torch.device, folder: Path, batch_size: int, size: int, rounds: int, seconds: float, images: int = 3000
) -> Iterator[tuple[str, dict[str, Any], dict[str, Rate]]]:
    """Names, further options and rates of all that loads; without DALI what does without it."""
    tree = made_set.make_tree(folder / made_set.NAME, images=images)
    times: dict[str, Any] = {"batch_size": batch_size, "size": size, "rounds": rounds, "seconds": seconds}
    yield "upload", {}, upload_rates(device, **times)
    pixels = PixelStore(tree, max_side=256, count=2048, times=16)
    for threads in THREADS:
        yield "raw 256 px", {"threads": threads}, gpu_loading.crop_rates(device, pixels, threads=threads, **times)
    if missing := dali_graph.why_missing():
        print(f"Left out: {missing}.")
        return
    for policy in ("original", "short_side=256"):
        shards = folder / policy
        conversion = Conversion(out=shards, policy=ImagePolicy.parse(policy), workers=usable_cores())
        convert_split(find_source(link(tree, folder / f"linked {policy}", 4), "train"), conversion, lambda _: None)
        more = {"set": policy, "threads": THREADS[1]}
        yield "decode", more, gpu_loading.decode_rates(device, shards, threads=THREADS[1], **times)
        for threads in THREADS:
            more = {"set": policy, "threads": threads}
            yield "shards", more, gpu_loading.loading_rates(device, shards, threads=threads, **times)


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
    """Policies, erasing, mixing and normalisation in float32 are the CPU's, to less than a level."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (32, recipe.size, recipe.size, 3), np.uint8))
    smooth = (pixels.float().mean(0, keepdim=True) / 2 + pixels.float() / 2).to(torch.uint8)
    erase = Erase(probability=0.5, mode="rand")
    others = [Augment(policy=policy, erase=erase, mix=Mix()) for policy in (TimmRandAugment(), ThreeAugment())]
    for augment, images in itertools.product((recipe.train_augment(), *others), (pixels, smooth)):
        draws = augment.draw(0, 0, np.arange(32), recipe.size)
        _expect_close("augmentation", augment(images.to(device), draws).cpu(), augment(images, draws), 0.015)


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


def check_decoders(device: torch.device, data: Path) -> None:
    """Pixels of the decoders that work on the card: crops of raw ones are the CPU's, DALI's are near them."""
    store = open_store(data, "train")
    ids = np.arange(48)
    encoded = [bytes(store.read(int(sample))) for sample in ids]
    whole = [decoded(image) for image in encoded]
    native = make_decoder("native", "bicubic", 2)
    sizes, _ = native.sizes(encoded)
    boxes, flips = CropPolicy().boxes(0, 0, ids, sizes, train=True), ids % 2 == 0
    right = np.zeros((48, 96, 96, 3), dtype=np.uint8)
    native.decode(encoded, boxes, flips, right)
    todo: list[tuple[str, Sequence[Encoded], float]] = [("device", whole, 0.0)]
    if dali_graph.why_missing() is None:
        todo.append(("dali", encoded, 24.0))
    for name, images, tolerance in todo:
        decoder = make_decoder(name, "bicubic", 2, device, store)
        out = torch.zeros(right.shape, dtype=torch.uint8, device=device)
        failures = decoder.decode(images, boxes, flips, out if decoder.on_device else out.numpy())
        decoder.close()
        if failures:
            raise InputError(f"decoder {name} fails at {len(failures)} of 48 images ({failures}): it is wrong.")
        _expect_close(f"{name}'s pixels", out.cpu(), torch.from_numpy(right), tolerance)
    native.close()


def check_step(device: torch.device, recipe: Recipe, compiling: Compile = "off") -> None:
    """A few steps in mixed precision lower the loss of one batch."""
    step = TimedStep(device, recipe, "twistnet18", compiling, lr=0.02)
    for _ in range(20):
        step()
    first, last = float(step.losses[0]), float(step.losses[-1])
    if not last < 0.9 * first:
        raise InputError(
            f"20 steps on one batch took the loss from {first:.3f} to {last:.3f} only: look into the step."
        )


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


def _expect_close(what: str, ours: Tensor, right: Tensor, tolerance: float) -> None:
    worst = float((ours.double() - right.double()).abs().max())
    if not worst <= tolerance:
        raise InputError(f"{what} differ from the CPU's by {worst:.2g}, more than {tolerance:g}: they are wrong.")
    print(f"{what}: at most {worst:.2g} from the CPU's")
