"""What trains, and at which rate: frozen backbones, and layers with rates of their own."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.multiprocessing
from conftest import free_port
from torch import nn
from training import finetune, pretrain

from loaders import Batch, InputError
from twistnet import distributed
from twistnet.building import make_model
from twistnet.distributed import World
from twistnet.gates import gates
from twistnet.optimiser import make_optimiser, set_lr
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import TrainStep

pytest_plugins = ("training",)
CPU = World(rank=0, world_size=1, device=torch.device("cpu"))


def recipe(**changes: Any) -> Recipe:
    return named("dtd").with_changes(batch_size=8, size=32, eval_size=32, model="test_resnet", **changes)


def batch_of(seed: int, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(5, (8,), generator=generator)
    return Batch(images, labels, labels, torch.ones(8), torch.ones(8, dtype=torch.bool), torch.arange(8))


def take(step: TrainStep, count: int, first: int = 0) -> None:
    step.start_training()
    for number in range(count):
        step(batch_of(first + number), number, 0.1, lambda *_: None)


# --- a frozen backbone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "twistnet18"])
def test_only_the_classifier_trains(name: str) -> None:
    model = make_model(recipe(tune="classifier").with_changes(model=name), 5, CPU)
    before = copy.deepcopy(model.state_dict())
    take(TrainStep(model, recipe(tune="classifier").with_changes(model=name), CPU), 3)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"fc.weight", "fc.bias"}, "running statistics stay too"
    assert model.fc.training
    assert not model.layer4.training


def test_steps_of_a_classifier_are_those_on_its_features() -> None:
    """Of torch's own logistic regression by SGD on what the backbone gives in evaluation."""
    ours = recipe(tune="classifier", label_smoothing=0.0)
    model = make_model(ours, 5, CPU)
    head = copy.deepcopy(model.get_classifier())
    frozen = copy.deepcopy(model).eval()
    optimiser = torch.optim.SGD(
        [{"params": [head.weight], "weight_decay": 5e-4}, {"params": [head.bias], "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    for number in range(3):
        batch = batch_of(number)
        features = frozen.forward_head(frozen.forward_features(batch.images), pre_logits=True).detach()
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(features), batch.labels).backward()
        optimiser.step()
    take(TrainStep(model, ours, CPU), 3)
    torch.testing.assert_close(model.fc.weight, head.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.fc.bias, head.bias, rtol=1e-4, atol=1e-6)


def _on_a_rank(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.join("cpu") as world:
        ours = recipe(tune="classifier")
        model = make_model(ours, 5, world)
        take(TrainStep(model, ours, world), 2, first=10 * rank)
        torch.save(model.state_dict(), out / f"{rank}.pt")


def test_a_frozen_backbone_stays_on_several_ranks(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_on_a_rank, (free_port(), tmp_path), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    start = make_model(recipe(tune="classifier"), 5, CPU).state_dict()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
        assert torch.equal(value, start[key]) == (not key.startswith("fc.")), key


def test_a_classifier_run_is_resumed_with_the_same_bits(dtd: Path, tmp_path: Path) -> None:
    flags = ("--tune=classifier", "--weights=none", "--epochs=3", "--keep_every=1")
    assert finetune(dtd, *flags, f"--run_dir={tmp_path / 'whole'}") == 0
    first = tmp_path / "part"
    first.mkdir()
    (first / "latest.pt").write_bytes((tmp_path / "whole" / "epoch-0001.pt").read_bytes())
    assert finetune(dtd, *flags, f"--resume={first / 'latest.pt'}", f"--run_dir={first}") == 1, "weights come too late"
    flags = tuple(flag for flag in flags if not flag.startswith("--weights"))
    assert finetune(dtd, *flags, f"--resume={first / 'latest.pt'}", f"--run_dir={first}") == 0
    whole, part = (torch.load(folder / "test_resnet_dtd.pt") for folder in (tmp_path / "whole", first))
    assert all(torch.equal(value, part[key]) for key, value in whole.items())
    assert json.loads((first / "result.json").read_text())["tune"] == "classifier"


def test_what_has_no_classifier_cannot_be_tuned(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="no classifier of its own to train on a frozen backbone: take --tune all"):
        make_model(recipe(tune="classifier"), 0, CPU)
    with pytest.raises(InputError, match="tune 'head' is unknown: choose one of all, classifier, probe"):
        recipe(tune="head")
    assert pretrain(tree, "--set=tune=classifier", f"--checkpoint_dir={tmp_path}") == 1
    assert "twistnet finetune --tune classifier" in capsys.readouterr().err


# --- rates by layer ---------------------------------------------------------------------------------------------------


def layer_of(name: str) -> int:
    """Of TwistNet-18's parameters: the stem, eight blocks, and the classifier."""
    if name.startswith("stem"):
        return 0
    if name.startswith("fc"):
        return 9
    stage, block = int(name[5]), int(name[7])
    return 2 * (stage - 1) + block + 1


def test_layers_of_twistnet_have_rates_of_their_own() -> None:
    model = timm.create_model("twistnet18", num_classes=5)
    optimiser = make_optimiser(model, recipe(layer_decay=0.75))
    set_lr(optimiser, 0.2)
    spared = {name for name, p in model.named_parameters() if p.ndim <= 1 or name.endswith(".twist.scale")}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = set()
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["lr"] == pytest.approx(0.2 * 0.75 ** (9 - layer_of(name))), name
            assert group["weight_decay"] == (0.0 if name in spared else 5e-4), name
    assert seen == set(names.values())


@pytest.mark.parametrize("name", ["resnet18", "convnextv2_nano", "swin_tiny", "fastvit_sa12"])
def test_layers_are_timms(name: str) -> None:
    model = timm.create_model(name, num_classes=5)
    layers = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    last = max(layers.values())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimiser = make_optimiser(model, recipe(layer_decay=0.5))
    scales = {names[id(p)]: group["lr_scale"] for group in optimiser.param_groups for p in group["params"]}
    assert scales == {key: pytest.approx(0.5 ** (last - layer)) for key, layer in layers.items()}
    assert len(set(scales.values())) > 5


def test_a_step_moves_each_layer_by_its_rate() -> None:
    """Plain SGD: the weight less the rate times the factor times the gradient."""
    ours = recipe(layer_decay=0.5, momentum=0.0, nesterov=False, weight_decay=0.0, label_smoothing=0.0)
    ours = ours.with_changes(model="twistnet18")
    model = make_model(ours, 5, CPU)
    before = copy.deepcopy(model)
    before.train()
    batch = batch_of(0)
    nn.functional.cross_entropy(before(batch.images), batch.labels).backward()
    take(TrainStep(model, ours, CPU), 1)
    for (name, parameter), old in zip(model.named_parameters(), before.parameters(), strict=True):
        wanted = old - 0.1 * 0.5 ** (9 - layer_of(name)) * old.grad
        torch.testing.assert_close(parameter, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_no_factor_leaves_two_groups(factor: float) -> None:
    optimiser = make_optimiser(timm.create_model("resnet18"), recipe(layer_decay=factor))
    assert len(optimiser.param_groups) == 2
    with pytest.raises(InputError, match=r"layer_decay 1.5 is impossible: take 0 to 1"):
        recipe(layer_decay=1.5)


# --- gates ------------------------------------------------------------------------------------------------------------


def test_gates_are_sigmoids_by_block() -> None:
    model = timm.create_model("twistnet18", num_classes=5)
    nn.init.constant_(model.layer4[1].gate, 0.0)
    start = pytest.approx(1 / (1 + 2.718281828**2), abs=1e-5)
    assert gates(model) == {"gates": {"layer3.0": start, "layer3.1": start, "layer4.0": start, "layer4.1": 0.5}}
    assert gates(timm.create_model("resnet18")) == gates(timm.create_model("twistnet18_no_gate")) == {}
