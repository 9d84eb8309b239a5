"""The parts of a training step against torch, timm and plain formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch
from timm.loss import BinaryCrossEntropy
from timm.optim import Lamb, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from loaders import Batch
from twistnet.loss import mixed_binary_cross_entropy, mixed_cross_entropy, right_answers, training_loss
from twistnet.optimiser import make_optimiser
from twistnet.precision import Precision
from twistnet.recipes import named
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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_loss_is_timms_with_a_threshold(smoothing: float) -> None:
    logits, batch = random_batch(64, 5)
    batch = batch._replace(weight=batch.weight.where(torch.arange(64) % 3 > 0, 1.0))
    off, on = smoothing / 5, 1 - smoothing + smoothing / 5
    own, other = (F.one_hot(each, 5) * (on - off) + off for each in (batch.labels, batch.partner))
    targets = batch.weight[:, None] * own + (1 - batch.weight[:, None]) * other
    expected = BinaryCrossEntropy(target_threshold=0.2)(logits, targets)
    torch.testing.assert_close(mixed_binary_cross_entropy(logits, batch, smoothing), expected)
    batch.valid[20:] = False
    some = Batch(*(tensor[:20] for tensor in batch))
    part = mixed_binary_cross_entropy(logits[:20], some, smoothing)
    torch.testing.assert_close(mixed_binary_cross_entropy(logits, batch, smoothing), part * 20 / 64)
    assert training_loss("bce") is mixed_binary_cross_entropy
    assert training_loss("cross_entropy") is mixed_cross_entropy


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
    options = {"schedule": "cosine", "steps_per_epoch": 10, "epochs": 95, "warmup_epochs": 5, "peak": 0.4}
    options["min_share"] = 0.1
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


@pytest.mark.parametrize(("name", "kind"), [("lamb", Lamb), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimiser_is_the_recipes(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    optimiser = make_optimiser(model, named("a2").with_changes(optimiser=name))
    assert type(optimiser) is kind
    assert sorted(group["weight_decay"] for group in optimiser.param_groups) == [0.0, 0.02]


def test_the_published_recipes_are_the_papers() -> None:
    """Table 2 of "ResNet strikes back"."""
    shared = {"optimiser": "lamb", "loss": "bce", "cutmix_alpha": 1.0, "crop_pct": 0.95, "warmup_epochs": 5}
    shared |= {"eval_size": 224, "lr_batch": 2048, "decay_norms_and_biases": False, "scale_min": 0.08, "hflip": 0.5}
    papers = {
        "a1": ("rand-m7-n2-mstd0.5-inc1", 600, 5e-3, 0.01, 0.1, 0.2, 3, 0.05, 224),
        "a2": ("rand-m7-n2-mstd0.5-inc1", 300, 5e-3, 0.02, 0.0, 0.1, 3, 0.05, 224),
        "a3": ("rand-m6-n2-mstd0.5-inc1", 100, 8e-3, 0.02, 0.0, 0.1, 1, 0.0, 160),
    }
    keys = "policy epochs lr weight_decay label_smoothing mixup_alpha repeats drop_path size".split()
    for name, values in papers.items():
        wanted = shared | dict(zip(keys, values, strict=True))
        assert {key: named(name).to_dict()[key] for key in wanted} == wanted
        assert named(name).peak_lr(8) == pytest.approx(wanted["lr"]), "8 cards of 256 images"


def test_precision_is_bfloat16_on_the_cpu_and_off_unless_asked() -> None:
    cpu = torch.device("cpu")
    assert Precision.choose(cpu, amp=False).dtype == torch.float32
    mixed = Precision.choose(cpu, amp=True)
    assert mixed.dtype == torch.bfloat16
    assert Precision.choose(cpu, amp=None).dtype == torch.float32, "unless asked for, on cards alone"
    assert not mixed.scaler().is_enabled()
    with mixed.autocast():
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("min_share", [0.0, 0.1])
def test_the_rate_falls_to_its_least_share_by_the_last_step(min_share: float, schedule: str) -> None:
    options = {"schedule": schedule, "steps_per_epoch": 10, "epochs": 10, "warmup_epochs": 1, "peak": 2.0}
    options["min_share"] = min_share
    rates = [lr_at(step, **options) for step in range(10, 100)]
    assert rates[0] == 2.0
    assert all(after < before for before, after in itertools.pairwise(rates))
    assert 2.0 * min_share < rates[-1] < 2.0 * min_share + (0.001 if schedule == "cosine" else 0.03)


def test_the_linear_schedule_is_ffcvs() -> None:
    """Which interpolates between 1e-4 of the peak at the start, the peak, and 0 at the end."""
    options = {"schedule": "linear", "steps_per_epoch": 10, "epochs": 16, "warmup_epochs": 2, "peak": 0.5}
    for step in range(160):
        ffcvs = np.interp(step / 10, [0, 2, 16], [0.5e-4, 0.5, 0.0])
        assert lr_at(step, **options, min_share=0.0) == pytest.approx(ffcvs, abs=0.5 / 19)
    assert lr_at(90, **options, min_share=0.0) == pytest.approx(0.25)
