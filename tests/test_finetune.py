"""Fine-tuning as a user calls it: weights found, folds kept, the best epoch tested once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training import call, finetune

from twistnet.__main__ import main

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
    assert f"test_acc of that epoch {result['test_top1']:.2%}" in printed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--fold=11"], "--fold 11 is none of DTD's: take 1 to 10."),
        (["--weights=nowhere.pt"], "nowhere.pt"),
        (["--data_dir={tree}"], "is no DTD folder"),
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
    capsys.readouterr()
    assert call("finetune", f"--data_dir={dtd}", "--resume=runs/one/latest.pt", "--device=cpu") == 1
    assert "the run has ended and runs/one/best.pt is gone" in capsys.readouterr().err
    assert main(["finetune", f"--data_dir={dtd}", "--weights="]) == 1
    assert "--weights is empty" in capsys.readouterr().err
