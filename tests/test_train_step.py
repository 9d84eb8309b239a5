"""Steps against torch and timm: averages, norms, layouts, compiling, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from loaders import Batch, InputError
from twistnet.distributed import World
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import TrainStep

CPU = World(rank=0, world_size=1, device=torch.device("cpu"))


def recipe(**changes: Any) -> Recipe:
    return named("guide").with_changes(batch_size=8, size=32, eval_size=32, mix_group=4, **changes)


def model_of(name: str, classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=classes).to(memory_format=torch.channels_last)


def batches(count: int, size: int = 32) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        images = torch.randn(8, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
        labels, partner = (torch.randint(5, (8,), generator=generator) for _ in range(2))
        weight = torch.rand(8, generator=generator)
        found.append(Batch(images, labels, partner, weight, torch.ones(8, dtype=torch.bool), torch.arange(8)))
    return found


def nothing(*_: object) -> None:
    pass


def losses_of(step: TrainStep, given: list[Batch], first: int = 0) -> list[float]:
    found: list[Tensor] = []
    for number, batch in enumerate(given, first):
        step(batch, number, 0.05, lambda _, loss, __: found.append(loss))
    return [float(loss) for loss in found]


def by_hand(model: nn.Module, given: list[Batch]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the guide's SGD, from torch's own pieces and one-hot targets."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    losses, norms = [], []
    for batch in given:
        own, other = (F.one_hot(each, 5) for each in (batch.labels, batch.partner))
        targets = batch.weight[:, None] * own + (1 - batch.weight[:, None]) * other
        loss = F.cross_entropy(model(batch.images), targets, label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e9)))
        optimiser.step()
        losses.append(float(loss))
    return losses, norms


def test_steps_are_those_of_plain_torch() -> None:
    given = batches(4)
    step = TrainStep(model_of("test_resnet"), recipe(), CPU)
    losses = losses_of(step, given)
    expected, norms = by_hand(model_of("test_resnet"), given)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert step.mean_grad_norm() == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert step.mean_grad_norm() == 0, "each step is told of once"


def test_an_overflow_leaves_the_norm_a_number() -> None:
    """As it comes to be with float16, whose scaler skips such a step."""
    step = TrainStep(model_of("test_resnet"), recipe(), CPU)
    good, bad = batches(2)
    for number, batch in enumerate((good, bad._replace(weight=bad.weight * float("inf")))):
        step(batch, number, 0.0, nothing)
    _, norms = by_hand(model_of("test_resnet"), [good])
    assert step.mean_grad_norm() == pytest.approx(norms[0], rel=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "twistnet18"])
def test_the_average_is_torchs(name: str) -> None:
    """With a decay that grows as timm's warm-up says: 1 - (1 + t) ** (-2/3) after t steps, 0.8 at most."""
    model = model_of(name)
    step = TrainStep(model, recipe(ema_decay=0.8), CPU)
    assert step.scored is not model
    decay = 0.0

    def averaging(averages: tuple[Tensor, ...], currents: tuple[Tensor, ...], _: object) -> None:
        get_ema_multi_avg_fn(decay)(averages, currents, 1)

    expected = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
    expected.update_parameters(model)  # the first call copies
    for number, batch in enumerate(batches(3)):
        step(batch, number, 0.1, nothing)
        decay = min(0.8, 1 - (1 + number) ** (-2 / 3))
        expected.update_parameters(model)
    ours = step.scored.state_dict()
    for key, value in expected.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)
    assert (ours["fc.weight"] - model.state_dict()["fc.weight"]).abs().max() > 1e-5, "it lags behind"


def test_a_state_goes_on_with_the_same_bits() -> None:
    given = batches(4)
    whole = TrainStep(model_of("test_resnet"), recipe(ema_decay=0.8), CPU)
    expected = losses_of(whole, given)
    first = TrainStep(model_of("test_resnet"), recipe(ema_decay=0.8), CPU)
    losses_of(first, given[:2])
    second = TrainStep(model_of("test_resnet"), recipe(ema_decay=0.8), CPU)
    second.model.load_state_dict(first.model.state_dict())
    assert second.restore(first.state())
    assert losses_of(second, given[2:], 2) == expected[2:]
    for ours, right in zip(second.scored.parameters(), whole.scored.parameters(), strict=True):
        assert torch.equal(ours, right)


class Layouts(TorchDispatchMode):
    """Notes operations that give large images in another layout than channels_last, or copy them to change it."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor) and each.ndim == 4 and each.shape[0] == 8 and min(each.shape[1:]) > 1:
                self.seen += 1
                if name in ("expand", "div"):  # the gradient of the pooling, one value a channel
                    continue
                if not each.is_contiguous(memory_format=torch.channels_last) or name in ("clone", "_to_copy"):
                    self.wrong.append(name)
        return out


@pytest.mark.parametrize("name", ["twistnet18", "resnet18"])
def test_no_pass_copies_images_into_another_layout(name: str) -> None:
    step = TrainStep(model_of(name), recipe(), CPU)
    (batch,) = batches(1, size=64)
    with Layouts() as layouts:
        step(batch, 0, 0.1, nothing)
    assert layouts.wrong == []
    assert layouts.seen > 100
    with layouts:
        batch.images.contiguous()
    assert layouts.wrong == ["clone"], "the watch watches"


def traced(backend: str | Callable[..., Any] = "aot_eager") -> Callable[..., Any]:
    """torch.compile without a compiler of machine code, which takes a minute."""
    compile_ = torch.compile
    return lambda model, mode, dynamic: compile_(model, backend=backend, dynamic=dynamic)  # noqa: ARG005


@pytest.mark.parametrize("name", ["test_resnet", "twistnet18"])
def test_a_compiled_step_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*batches(2), *batches(2, size=64)]
    expected = losses_of(TrainStep(model_of(name), recipe(), CPU), given)
    monkeypatch.setattr(torch, "compile", traced())
    step = TrainStep(model_of(name), recipe(), CPU, compiling="on")
    assert losses_of(step, given) == pytest.approx(expected, rel=1e-4)
    assert sorted(step.compile_s) == [32, 64], "once for each size"
    assert all(seconds > 0 for seconds in step.compile_s.values())


def test_automatic_compiling_is_left_to_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)  # which would fail
    step = TrainStep(model_of("test_resnet"), recipe(), CPU, compiling="auto")
    losses_of(step, batches(1))
    assert step.compile_s == {}


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", traced(broken))
    step = TrainStep(model_of("test_resnet"), recipe(), CPU, compiling="on")
    with pytest.raises(InputError, match=r"cannot be compiled \(.*no compiler here.*\): pass --compile off"):
        losses_of(step, batches(1))
    with pytest.raises(InputError, match="--compile graphs needs a CUDA card"):
        TrainStep(model_of("test_resnet"), recipe(), CPU, compiling="graphs")


def test_a_failing_step_is_not_blamed_on_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", traced("eager"))
    step = TrainStep(model_of("test_resnet"), recipe(), CPU, compiling="on")
    (batch,) = batches(1)
    with pytest.raises(RuntimeError, match=r"shape|size|match"):
        step(batch._replace(labels=torch.zeros(3, dtype=torch.int64)), 0, 0.1, nothing)


def test_mixed_precision_learns_as_float32_does() -> None:
    """200 steps on photographs: bfloat16's loss lies within what another seed makes of float32's."""
    import skimage.data

    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]

    @functools.cache
    def crops(number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        labels = torch.randint(4, (8,), generator=generator)
        found = []
        for label in labels.tolist():
            pixels = torch.from_numpy(photographs[label])
            top, left = (int(torch.randint(side - 128, (1,), generator=generator)) for side in pixels.shape[:2])
            found.append(pixels[top : top + 128 : 4, left : left + 128 : 4])
        images = (torch.stack(found).permute(0, 3, 1, 2).float() / 128 - 1).contiguous(
            memory_format=torch.channels_last
        )
        return Batch(images, labels, labels, torch.ones(8), torch.ones(8, dtype=torch.bool), torch.arange(8))

    def final(seed: int, amp: bool) -> float:
        torch.manual_seed(seed)
        model = timm.create_model("twistnet18", num_classes=4).to(memory_format=torch.channels_last)
        step = TrainStep(model, recipe(amp=amp), CPU)
        losses: list[float] = []
        for number in range(200):
            step(crops(number), number, 0.004, lambda _, loss, __: losses.append(float(loss)))
        assert losses[0] > 1.2, "it begins with guessing"
        return sum(losses[-50:]) / 50

    plain = [final(seed, amp=False) for seed in range(3)]
    assert max(plain) < 1.1, "it learns"
    mixed = [final(seed, amp=True) for seed in range(2)]
    for ours, right in zip(mixed, plain, strict=False):
        assert abs(ours - right) < max(plain) - min(plain)
