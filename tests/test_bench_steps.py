"""What the bench of steps times: the precision, the compiling and both passes that its rows say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench import steps as bench_steps
from bench.steps import TimedStep, step_rates
from bench.timing import Rate
from twistnet.recipes import named
from twistnet.stci import MultiHeadSTCI

CPU = torch.device("cpu")
Calls = dict[str, Callable[[], int]]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Calls]:
    """Everything that would be timed."""
    found: list[Calls] = []

    def noted(runs: Calls, **_: Any) -> dict[str, Rate]:
        found.append(dict(runs))
        return {name: Rate.of([1.0]) for name in runs}

    monkeypatch.setattr(bench_steps, "measure", noted)
    return found


def test_steps_have_the_precision_and_the_compiling_of_their_rows(
    timed: list[Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def noted(model: nn.Module, **_: object) -> nn.Module:
        compiled.append(model)
        return model

    monkeypatch.setattr(torch, "compile", noted)
    rows = list(step_rates(CPU, ["test_resnet"], [8], 32, ["float32", "bfloat16"], ["off", "on"], 1, 0.0))
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for runs in timed:
        run = runs["test_resnet"]
        assert isinstance(run, TimedStep)
        run._step.model.conv1[0].register_forward_hook(lambda _, given, out: seen.append((given[0].dtype, out.dtype)))
        before = run._step.model.conv1[0].weight.detach().clone()
        assert run() == 8
        assert not torch.equal(run._step.model.conv1[0].weight, before), "a step changes weights"
    kinds = [(options["precision"], options["compile"]) for options, _ in rows]
    assert kinds == [("float32", "off"), ("float32", "on"), ("bfloat16", "off"), ("bfloat16", "on")]
    assert seen == [(torch.float32, torch.float32)] * 2 + [(torch.bfloat16, torch.bfloat16)] * 2
    assert len(compiled) == 2


def test_a_step_is_of_a_batch_that_stays() -> None:
    recipe = named("guide").with_changes(batch_size=8, size=32)
    step = TimedStep(CPU, recipe, "test_resnet", "off")
    assert [step() for _ in range(3)] == [8, 8, 8]
    assert len({float(loss) for loss in step.losses}) == 3, "it learns by heart"


def test_blocks_are_timed_forward_and_backward() -> None:
    module, h = MultiHeadSTCI(16), torch.randn(2, 16, 4, 4)
    passes: list[str] = []
    module.register_forward_hook(lambda *_: passes.append("forward"))
    module.proj[0].weight.register_hook(lambda _: passes.append("backward"))
    run = bench_steps._there_and_back(module, h, torch.ones(2, 16, 4, 4))
    assert run() + run() == 4
    assert passes == ["forward", "backward"] * 2
    assert module.proj[0].weight.grad is None, "gradients do not pile up"
