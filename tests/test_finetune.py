"""Fine-tuning as a user calls it: weights found, folds kept, the best epoch tested once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from training import call, finetune

import loaders
import twistnet.train
from loaders import open_loader
from loaders.augment import Augment
from twistnet.__main__ import main
from twistnet.checkpoints import load_checkpoint
from twistnet.evaluate import Score, evaluate
from twistnet.recipe import from_dict

pytest_plugins = ("training",)


@pytest.mark.usefixtures("run")
def test_fine_tuning_finds_weights_by_itself_and_tests_the_best_epoch(
    dtd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert finetune(dtd, "--fold=1", "--seed=42", "--run_dir=runs/test") == 0
    printed = capsys.readouterr().out
    assert "weights/test_resnet_imagenet.pt" in printed
    assert "Epoch 2: val_acc" in printed
    result = json.loads(Path("runs/test/result.json").read_text())
    assert result["test_samples"] == 15
    best = torch.load("runs/test/best.pt", weights_only=True)
    rows = [json.loads(line) for line in Path("runs/test/log.jsonl").read_text().splitlines()]
    scores = {row["epoch"]: row["val_top1"] for row in rows if row["kind"] == "epoch"}
    assert result["val_top1"] == max(scores.values()) == scores[result["best_epoch"]]
    assert best["epoch"] == result["best_epoch"]
    balanced = f"class-balanced {result['test_balanced']:.2%}"
    assert f"test_acc of that epoch {result['test_top1']:.2%}, {balanced}; run folder runs/test." in printed


@pytest.mark.parametrize(("averaged", "key"), [(0.0, "model"), (0.9, "ema")])
def test_the_weights_of_the_best_epoch_are_tested(
    dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: float, key: str
) -> None:
    """Of the first one here, as validation is made to say; and they are the moving average's where there is one."""
    scores = iter((15, 0))

    def scored(*given: Any, **named: Any) -> Score:
        return dataclasses.replace(evaluate(*given, **named), right=next(scores))

    monkeypatch.setattr(twistnet.train, "evaluate", scored)
    folder = tmp_path / "run"
    flags = ("--weights=none", f"--set=ema_decay={averaged}", "--lr=2", "--keep_every=1")
    assert finetune(dtd, f"--run_dir={folder}", *flags) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (result["best_epoch"], result["train_samples"], result["test_samples"]) == (1, 24, 15)
    found = np.load(folder / "predictions.npz")["probabilities"]
    of = {name: probabilities(dtd, folder, name, key) for name in ("best.pt", "epoch-0001.pt", "epoch-0002.pt")}
    assert np.array_equal(of["best.pt"], of["epoch-0001.pt"])
    assert np.allclose(found, of["best.pt"], atol=1e-3)
    assert not np.allclose(found, of["epoch-0002.pt"], atol=1e-2)
    if averaged:
        assert not np.allclose(found, probabilities(dtd, folder, "best.pt", "model"), atol=1e-2)
    store = loaders.open_store(dtd, "test1")
    assert result["test_fingerprint"] == store.fingerprint


@torch.no_grad()
def probabilities(dtd: Path, folder: Path, name: str, key: str) -> np.ndarray:
    """Of the test images by a checkpoint's weights, in the order of their ids, computed by hand."""
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(load_checkpoint(folder / name)[key])
    crops = from_dict(json.loads((folder / "recipe.json").read_text())).crops()
    with open_loader(dtd, "test1", 15, train=False, size=32, augment=Augment(), crops=crops) as loader:
        (batch,) = loader.epoch(0)
    return model(batch.images).softmax(dim=1)[batch.ids.argsort()].numpy()


def test_the_result_says_what_it_is_of(dtd: Path, run: Path) -> None:
    folder, weights = Path("runs/r"), run / "test_resnet_imagenet.pt"
    assert finetune(dtd, "--fold=2", f"--run_dir={folder}", "--seed=7", f"--weights={weights}") == 0
    result = json.loads((folder / "result.json").read_text())
    said = {"model": "test_resnet", "dataset": "dtd", "fold": 2, "seed": 7, "recipe": "demo_dtd", "tune": "all"}
    said |= {"epochs": 2, "num_classes": 3, "test_samples": 15, "weights": str(weights)}
    said["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert {key: result[key] for key in said} == said
    model = timm.create_model("test_resnet", num_classes=3)
    assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    in_steps = sum(row["seconds"] for row in rows if row["kind"] == "epoch")
    assert result["step_seconds"] == pytest.approx(in_steps, abs=0.01)
    assert 0 < result["eval_seconds"]
    assert 0 < result["step_seconds"] < result["seconds"] - result["eval_seconds"]


def test_predictions_are_of_the_best_weights_each_sample_once(dtd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert finetune(dtd, f"--run_dir={folder}", "--weights=none", "--batch_size=4") == 0
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    kinds = {"ids": np.int64, "labels": np.int64, "predicted": np.int64, "probabilities": np.float16}
    assert {name: found[name].dtype for name in kinds} == kinds
    assert found["classes"].tolist() == ["astronaut", "cat", "coffee"]
    assert found["ids"].tolist() == list(range(15))
    listed = [line.split("/")[0] for line in (dtd / "labels" / "test1.txt").read_text().splitlines()]
    assert found["classes"][found["labels"]].tolist() == listed
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(load_checkpoint(folder / "best.pt")["model"])
    with open_loader(dtd, "test1", 15, train=False, size=32, augment=Augment()) as loader, torch.no_grad():
        logits = model(next(iter(loader.epoch(0))).images)
    np.testing.assert_allclose(found["probabilities"], logits.softmax(1).numpy(), atol=2e-3)
    assert found["predicted"].tolist() == logits.argmax(1).tolist()
    result = json.loads((folder / "result.json").read_text())
    assert result["test_top1"] == pytest.approx(accuracy_score(found["labels"], found["predicted"]))
    assert result["test_balanced"] == pytest.approx(balanced_accuracy_score(found["labels"], found["predicted"]))
    top5 = top_k_accuracy_score(found["labels"], found["probabilities"], k=2)
    assert result["test_top5"] == 1.0 >= top5, "three classes"


@pytest.mark.usefixtures("run")
def test_a_run_that_has_ended_tells_its_result_again(dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(dtd, "--run_dir=runs/one", "--resume=auto") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Best val_acc"))
    before = {path.name: path.stat().st_mtime_ns for path in Path("runs/one").iterdir()}
    assert finetune(dtd, "--run_dir=runs/one", "--resume=auto") == 0
    assert capsys.readouterr().out.splitlines() == [said]
    assert {path.name: path.stat().st_mtime_ns for path in Path("runs/one").iterdir()} == before
    assert finetune(dtd, "--run_dir=runs/one", "--resume=auto", "--epochs=3") == 1, "another run"
    assert "epochs 3 differs from the 2" in capsys.readouterr().err
    result = Path("runs/one/result.json")
    told = json.loads(result.read_text())
    result.write_text(json.dumps({"val_top1": told["val_top1"]}))  # as an earlier version had it, with less
    assert finetune(dtd, "--run_dir=runs/one", "--resume=auto") == 0
    again = json.loads(result.read_text())
    times = dict.fromkeys(("seconds", "step_seconds", "eval_seconds"), 0)
    assert {**again, **times} == {**told, **times}, "tested once more"


def test_a_twistnets_gates_are_in_the_log(dtd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ("--model=twistnet18", "--weights=none", "--epochs=1", "--warmup_epochs=0", "--keep_every=1")
    assert finetune(dtd, f"--run_dir={folder}", *flags) == 0
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    (gates,) = (row["gates"] for row in rows if row["kind"] == "epoch")
    state = load_checkpoint(folder / "epoch-0001.pt")["model"]
    wanted = {name: float(state[f"{name}.gate"].sigmoid()) for name in ("layer3.0", "layer3.1", "layer4.0", "layer4.1")}
    assert gates == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--fold=11"], "--fold 11 is none of dtd's: take 1 to 10."),
        (["--dataset=kth", "--fold=5"], "--fold 5 is none of kth's: take 1 to 4."),
        (["--dataset=cub", "--fold=2"], "--fold 2 is none of cub's: it has one, take 1."),
        (["--weights=nowhere.pt"], "nowhere.pt"),
        (["--data_dir={tree}"], "is no DTD folder: it must hold images/<class>/ and labels/train1.txt."),
    ],
)
def test_fine_tuning_refuses(
    dtd: Path,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finetune(dtd, *(flag.format(tree=tree) for flag in extra)) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.usefixtures("run")
def test_a_resumed_run_keeps_its_fold_and_tells_its_weights(dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(dtd, "--fold=2", "--run_dir=runs/two") == 0
    folder, first = Path("runs/two"), json.loads(Path("runs/two/result.json").read_text())
    state = torch.load(folder / "latest.pt", weights_only=True)
    assert state["data"]["train_split"] == "train2"
    capsys.readouterr()
    data, latest = f"--data_dir={dtd}", f"--resume={folder / 'latest.pt'}"
    for refused, message in {
        "--fold=1": "--fold 1 is not that of runs/two/latest.pt, which trains on train2",
        "--weights=none": "--weights none comes too late for --resume runs/two/latest.pt",
    }.items():
        assert call("finetune", data, latest, "--device=cpu", refused) == 1
        assert message in capsys.readouterr().err
    assert call("finetune", data, latest, "--device=cpu") == 0
    again = json.loads((folder / "result.json").read_text())
    assert again == first
    assert first["weights"] == str(Path.cwd() / "weights/test_resnet_imagenet.pt")
    assert first["images_per_s"] > 0


def test_what_cannot_be_gone_on_with_is_refused(dtd: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latest = f"--resume={run / 'latest.pt'}"
    assert call("finetune", f"--data_dir={dtd}", latest, "--device=cpu") == 1
    assert "was trained on train, no fold: go on with twistnet pretrain --resume" in capsys.readouterr().err
    assert finetune(dtd, "--run_dir=runs/one") == 0
    Path("runs/one/best.pt").unlink()
    Path("runs/one/result.json").unlink()
    capsys.readouterr()
    assert call("finetune", f"--data_dir={dtd}", "--resume=runs/one/latest.pt", "--device=cpu") == 1
    assert "the run has ended and runs/one/best.pt is gone" in capsys.readouterr().err
    assert main(["finetune", f"--data_dir={dtd}", "--weights="]) == 1
    assert "--weights is empty" in capsys.readouterr().err
