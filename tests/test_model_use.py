"""What people do with a model besides training it: several threads, other types, odd batches; and other models."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from training import pretrain

import twistnet
from twistnet.interactions import DEVICES, interactions, scale_shift

pytest_plugins = ("training",)


def model_of(num_classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("twistnet18", num_classes=num_classes).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return model


def test_several_threads_may_evaluate_one_model() -> None:
    assert twistnet.__name__
    model = model_of()
    images = torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        right = model(images)

    def evaluate(_: int) -> bool:
        with torch.no_grad():
            return torch.allclose(model(images), right, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(evaluate, range(60)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_a_model_of_a_shorter_type_computes_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    model = model_of()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        right = model(images)
        found = model.to(dtype)(images.to(dtype))
    assert found.dtype == dtype
    assert float((found.float() - right).abs().max()) <= tolerance * float(right.abs().max())


def test_a_batch_of_nothing_gives_nothing() -> None:
    with torch.no_grad():
        assert model_of()(torch.randn(0, 3, 64, 64)).shape == (0, 10)


@pytest.mark.parametrize(
    ("z", "kernels"),
    [
        ((8, 512, 2, 2), (8, 1, 3, 3)),
        ((2, 12, 4, 4), (12, 1, 3, 3)),
        ((2, 8, 4, 4), (8, 1, 5, 5)),
        ((8, 4, 4), (8, 1, 3, 3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(z: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"are not \(B, 8n, H, W\)"):
        interactions(torch.rand(z), torch.rand(kernels))
    with pytest.raises(ValueError, match="are not those of x"):
        scale_shift(torch.rand(2, 8, 4, 4), torch.rand(2, 9), torch.rand(2, 8))


@pytest.mark.skipif("cpu" not in DEVICES, reason="needs the compiled library")
def test_threads_change_nothing() -> None:
    """Each has scratch memory of its own, forward and backward."""
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            z, kernels = torch.randn(16, 32, 14, 14, requires_grad=True), torch.randn(32, 1, 3, 3, requires_grad=True)
            products, mean, square = interactions(z, kernels)
            (products.square().sum() + mean.sum() + square.sum()).backward()
            results.append((products.detach(), mean.detach(), square.detach(), z.grad, kernels.grad))
    finally:
        torch.set_num_threads(before)
    for one, several in zip(*results, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", ["seresnet18", "convnextv2_nano"])
def test_other_models_of_timm_train(model: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree, f"--model={model}", "--epochs=1", "--no_publish") == 0
    rows = [json.loads(line) for line in (tmp_path / "checkpoints" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "epoch"
    weights = torch.load(tmp_path / "checkpoints" / f"{model}_imagenet.pt", weights_only=True)
    timm.create_model(model, num_classes=3).load_state_dict(weights)
