"""Linear probes against scikit-learn, and as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.multiprocessing
from conftest import free_port
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from training import finetune

import twistnet
from loaders import InputError, open_loader
from loaders.augment import Augment
from twistnet import distributed
from twistnet.logistic import choose_l2, fit
from twistnet.precision import Precision
from twistnet.probing import features_of, set_classifier

pytest_plugins = ("training",)


def clusters(count: int, seed: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    """Four overlapping classes in 12 dimensions of unlike scales, one of which is always the same."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(9)) * 2
    labels = torch.randint(4, (count,), generator=generator)
    features = centres[labels] + spread * torch.randn(count, 12, generator=generator)
    features = features * torch.logspace(-2, 2, 12) + 5
    features[:, 3] = 1.0
    return features, labels


def scikits(features: Tensor, labels: Tensor, l2: float) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(features.double().numpy())
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=20_000)
    return scaler, model.fit(scaler.transform(features.double().numpy()), labels.numpy())


@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
def test_a_fit_is_scikit_learns(l2: float) -> None:
    features, labels = clusters(300, 0)
    scaler, expected = scikits(features, labels, l2)
    inputs = torch.from_numpy(scaler.transform(features.double().numpy()))
    weight, bias = fit(inputs, labels, 4, l2)
    np.testing.assert_allclose(weight.numpy(), expected.coef_, atol=1e-4)
    bias_ = bias.numpy()
    # Only differences of the biases matter, which nothing penalises.
    np.testing.assert_allclose(bias_ - bias_.mean(), expected.intercept_ - expected.intercept_.mean(), atol=1e-4)
    far = torch.full_like(weight, 0.3), torch.full_like(bias, -0.2)
    again, _ = fit(inputs, labels, 4, l2, far)
    torch.testing.assert_close(again, weight, rtol=0, atol=1e-4)


def test_the_penalty_is_the_one_that_validation_chooses() -> None:
    features, labels = clusters(60, 1)
    val_features, val_labels = clusters(200, 2)
    chosen = choose_l2(features, labels, val_features, val_labels, 4)
    for l2, top1 in chosen.tried.items():
        if l2 >= 1e-4:  # below, scikit-learn and this end at other points of what is nearly flat
            scaler, model = scikits(features, labels, l2)
            expected = model.score(scaler.transform(val_features.double().numpy()), val_labels.numpy())
            assert top1 == pytest.approx(expected, abs=0.0051), l2
    assert chosen.val_top1 == max(chosen.tried.values())
    assert chosen.l2 == max(l2 for l2, top1 in chosen.tried.items() if top1 == chosen.val_top1)
    assert {1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6} <= {float(f"{l2:.6g}") for l2 in chosen.tried}
    right = (val_features.double() @ chosen.weight.T + chosen.bias).argmax(1) == val_labels
    assert float(right.double().mean()) == pytest.approx(chosen.val_top1), "on features as they are"
    assert 10 <= len(chosen.tried) <= 15


@pytest.mark.parametrize(
    "name", ["resnet18", "twistnet18", "repvit_m1_5", "fastvit_sa12", "convnextv2_nano", "swin_tiny", "seresnet18"]
)
def test_a_fit_becomes_the_classifier(name: str) -> None:
    assert twistnet.__version__
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        weight, bias = torch.randn(5, features.shape[1]), torch.randn(5)
        set_classifier(model, name, weight, bias)
        torch.testing.assert_close(model(images), features @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_a_classifier_that_is_not_linear_is_refused() -> None:
    model = timm.create_model("resnet18", num_classes=5)
    model.fc = torch.nn.Sequential(torch.nn.Linear(512, 8), torch.nn.Linear(8, 5))
    with pytest.raises(InputError, match="no linear layer: take --tune classifier"):
        set_classifier(model, "resnet18", torch.zeros(5, 512), torch.zeros(5))


def _features(rank: int, world_size: int, port: int, tree: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    with distributed.join("cpu") as world:
        options = {"train": False, "size": 32, "augment": Augment(), "rank": rank, "world_size": world_size}
        with open_loader(tree, "val", 4, num_threads=1, **options) as loader:
            precision = Precision.choose(world.device, amp=False)
            torch.save(features_of(model, loader, world, precision, flip_tta=True), out / f"{rank}.pt")


def test_features_are_of_every_sample_once_on_any_number_of_ranks(tree: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    with open_loader(tree, "val", 21, train=False, size=32, augment=Augment()) as loader, torch.no_grad():
        batch = next(iter(loader.epoch(0)))
        both = [model.forward_head(model.forward_features(x), True) for x in (batch.images, batch.images.flip(3))]
    torch.multiprocessing.spawn(_features, (2, free_port(), tree, tmp_path), nprocs=2)
    for rank in range(2):
        features, labels = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(labels, batch.labels)
        torch.testing.assert_close(features, (both[0] + both[1]) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("run")
def test_a_probe_of_a_fold(dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("runs/probe")
    capsys.readouterr()
    flags = ("--tune=probe", f"--run_dir={folder}")
    assert finetune(dtd, *flags) == 0
    printed = capsys.readouterr().out
    assert "weights/test_resnet_imagenet.pt" in printed
    result = json.loads((folder / "result.json").read_text())
    assert (result["tune"], result["epochs"], result["best_epoch"], result["test_samples"]) == ("probe", 1, 1, 15)
    backbone = torch.load("weights/test_resnet_imagenet.pt")
    final = torch.load(folder / "test_resnet_dtd.pt")
    assert all(torch.equal(value, final[key]) for key, value in backbone.items() if not key.startswith("fc."))

    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(final)

    def of(split: str) -> tuple[np.ndarray, np.ndarray]:
        with open_loader(dtd, split, 30, train=False, size=32, augment=Augment()) as loader, torch.no_grad():
            batch = next(iter(loader.epoch(0)))
            features = model.forward_head(model.forward_features(batch.images), pre_logits=True)
            return features[batch.valid].double().numpy(), batch.labels[batch.valid].numpy()

    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tried = {row["l2"]: row["val_top1"] for row in rows if row["kind"] == "probe"}
    best = max(tried, key=lambda l2: (tried[l2], l2))
    features, labels = of("train1")
    scaler = StandardScaler().fit(features)
    expected = LogisticRegression(C=1 / best, tol=1e-10, max_iter=20_000).fit(scaler.transform(features), labels)
    assert result["val_top1"] == pytest.approx(expected.score(scaler.transform(of("val1")[0]), of("val1")[1]))
    wanted = expected.predict_proba(scaler.transform(of("test1")[0]))
    with np.load(folder / "predictions.npz") as file:
        np.testing.assert_allclose(file["probabilities"], wanted, atol=3e-3)

    assert finetune(dtd, *flags, "--resume=auto") == 0
    assert capsys.readouterr().out.splitlines()[-1:] == [line for line in printed.splitlines() if "Best val" in line]
    assert finetune(dtd, *flags) == 1
    assert "holds a probe already (result.json): choose another folder" in capsys.readouterr().err
    assert finetune(dtd, *flags, "--resume=auto", "--size=64") == 1
    assert "holds a probe with another recipe" in capsys.readouterr().err
