"""The parts of a training step against torch, timm and plain formulas."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from loaders import Batch
from twistnet.loss import mixed_cross_entropy, right_answers
from twistnet.optimiser import make_optimiser
from twistnet.precision import Precision
from twistnet.recipe import named
from twistnet.schedule import lr_at


def random_batch(size: int = 32, classes: int = 10) -> tuple[torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, classes, generator=generator)
    labels, partner = (torch.randint(classes, (size,), generator=generator) for _ in range(2))
    weight, valid = torch.rand(size, generator=generator), torch.ones(size, dtype=torch.bool)
    return logits, Batch(torch.empty(size, 0), labels, partner, weight, valid, torch.arange(size))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_torchs_with_soft_targets(smoothing: float) -> None:
    logits, batch = random_batch()
    targets = batch.weight[:, None] * F.one_hot(batch.labels, 10) + (1 - batch.weight[:, None]) * F.one_hot(
        batch.partner, 10
    )
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(mixed_cross_entropy(logits, batch, smoothing), expected)


def test_filling_weighs_nothing_and_samples_weigh_the_same_in_every_batch() -> None:
    logits, batch = random_batch()
    batch.valid[20:] = False
    valid = Batch(*(tensor[:20] for tensor in batch))
    whole, part = (mixed_cross_entropy(x, b, 0.1) for x, b in ((logits, batch), (logits[:20], valid)))
    torch.testing.assert_close(whole, part * 20 / 32)
    torch.testing.assert_close(right_answers(logits, batch), right_answers(logits[:20], valid))


def test_right_answers_are_timms_accuracy() -> None:
    logits, batch = random_batch(200)
    plain = batch._replace(weight=torch.ones(200), partner=batch.labels)
    expected = timm.utils.accuracy(logits, batch.labels, topk=(1, 5))
    torch.testing.assert_close(right_answers(logits, plain) / 2, torch.stack([x.double() for x in expected]))
    few = right_answers(logits[:, :3], plain._replace(labels=batch.labels % 3, partner=batch.labels % 3))
    assert few[1] == 200, "with three classes, the label is always among the first five"


def test_schedule_is_timms_cosine_after_a_linear_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.4)
    timms = CosineLRScheduler(optimiser, t_initial=90 * 10, lr_min=0.04, warmup_t=0)
    options = {"steps_per_epoch": 10, "epochs": 95, "warmup_epochs": 5, "peak": 0.4, "min_share": 0.1}
    for step in range(50, 950, 7):
        timms.step_update(step - 50)
        timms.step(step - 50)
        assert lr_at(step, **options) == pytest.approx(optimiser.param_groups[0]["lr"])
    rises = [lr_at(step, **options) for step in range(51)]
    assert rises[0] == pytest.approx(0.4 / 50)
    assert rises[49] == pytest.approx(0.4)
    assert all(after > before for before, after in itertools.pairwise(rises[:50]))


@pytest.mark.parametrize("name", ["resnet18", "twistnet18"])
def test_parameter_groups_are_timms(name: str) -> None:
    model = timm.create_model(name, num_classes=10)
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    expected = param_groups_weight_decay(model, 5e-4, no_weight_decay_list=spared)
    groups = make_optimiser(model, named("dtd")).param_groups
    ours = {group["weight_decay"]: {id(p) for p in group["params"]} for group in groups}
    assert ours == {group["weight_decay"]: {id(p) for p in group["params"]} for group in expected}
    (whole,) = make_optimiser(model, named("guide")).param_groups
    assert whole["weight_decay"] == 1e-4
    assert len(whole["params"]) == len(list(model.parameters()))


def test_precision_is_bfloat16_on_the_cpu_and_off_unless_asked() -> None:
    cpu = torch.device("cpu")
    assert Precision.choose(cpu, amp=False).dtype == torch.float32
    mixed = Precision.choose(cpu, amp=True)
    assert mixed.dtype == torch.bfloat16
    assert not mixed.scaler().is_enabled()
    with mixed.autocast():
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("min_share", [0.0, 0.1])
def test_the_rate_falls_to_its_least_share_by_the_last_step(min_share: float) -> None:
    options = {"steps_per_epoch": 10, "epochs": 10, "warmup_epochs": 1, "peak": 2.0, "min_share": min_share}
    rates = [lr_at(step, **options) for step in range(10, 100)]
    assert rates[0] == 2.0
    assert all(after < before for before, after in itertools.pairwise(rates))
    assert 2.0 * min_share < rates[-1] < 2.0 * min_share + 0.001
