"""The training commands as a user calls them: what they write, print and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from twistnet.__main__ import main


def call(command: str, *flags: str) -> int:
    """Runs a command; of a flag that is given twice, the later counts."""
    values = dict(flag.partition("=")[::2] for flag in flags)
    return main([command, *(f"{name}={value}" if value else name for name, value in values.items())])


TINY = ("--device=cpu", "--workers=1", "--size=32", "--batch_size=16", "--epochs=2", "--model=test_resnet")


def pretrain(tree: Path, *flags: str) -> int:
    return call("pretrain", f"--data_dir={tree}", "--recipe=demo", *TINY, *flags)


def resume(tree: Path, *flags: str) -> int:
    return call("pretrain", f"--data_dir={tree}", "--device=cpu", *flags)


def finetune(dtd: Path, *flags: str) -> int:
    return call("finetune", f"--data_dir={dtd}", "--recipe=demo_dtd", *TINY, *flags)


@pytest.fixture
def run(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in ./checkpoints of a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree) == 0
    return tmp_path / "checkpoints"


def test_pretraining_publishes_its_weights_once(tree: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = run.parent / "weights" / "test_resnet_imagenet.pt"
    for suffix in (".pt", ".safetensors"):
        ours = (run / f"test_resnet_imagenet{suffix}").read_bytes()
        assert published.with_suffix(suffix).read_bytes() == ours
    before = published.read_bytes()
    capsys.readouterr()
    assert pretrain(tree, "--checkpoint_dir=second", "--seed=9") == 0
    assert published.read_bytes() == before
    assert "was left as it is" in capsys.readouterr().out
    assert pretrain(tree, "--checkpoint_dir=third", "--no_publish", "--weights_dir=elsewhere") == 0
    assert not Path("elsewhere").exists()


def test_epoch_lines_and_log_agree(run: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(tree, "--checkpoint_dir=again") == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in Path("again/log.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    assert f"Epoch 2: val_acc {last['val_top1']:.2%}, top-5 {last['val_top5']:.2%}" in printed
    first = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [[row["loss"] for row in found if row["kind"] == "steps"] for found in (rows, first)]
    assert losses[0] == losses[1], "the same seed trains the same way"
    with Image.open(run / "curves.png") as curves:
        assert min(curves.size) > 400


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "holds a run already (latest.pt): go on with --resume checkpoints/latest.pt"),
        (["--resume=nowhere/latest.pt"], "nowhere/latest.pt does not exist"),
        (["--resume=checkpoints/recipe.json"], "cannot be read"),
        (["--resume=checkpoints/test_resnet_imagenet.pt"], "has format None"),
        (["--resume=checkpoints/latest.pt", "--lr=0.7"], "--lr 0.7 differs from the 0.2"),
        (["--resume=checkpoints/latest.pt", "--recipe=guide"], "--recipe guide differs from the demo"),
        (["--resume=checkpoints/latest.pt", "--batch_size=12"], "no total batch of 16"),
        (["--resume=checkpoints/latest.pt", "--checkpoint_dir=other"], "--checkpoint_dir other is not the folder"),
        (["--checkpoint_dir=new", "--batch_size=10"], "mixing needs a multiple of 4: take 8"),
        (["--checkpoint_dir=new", "--model=twistnet19"], "twistnet19"),
        (["--checkpoint_dir=new", "--epochs=1"], "warmup_epochs 1 leaves nothing of 1 epochs"),
        (["--checkpoint_dir=new", "--data_dir=nowhere"], "nowhere does not exist"),
        (["--checkpoint_dir=new", "--recipe=a9"], "recipe 'a9' is unknown"),
        (["--checkpoint_dir=checkpoints/log.jsonl"], "checkpoints/log.jsonl cannot be made"),
    ],
)
def test_refusals_lose_nothing(
    tree: Path, run: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    resumes = any(flag.startswith("--resume") for flag in extra)
    assert (resume if resumes else pretrain)(tree, *extra) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1, "one sentence"
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert not list(Path("new").glob("*.pt"))


def test_resuming_on_other_data_is_refused(
    tree: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tree, tmp_path / "other")
    (other / "train" / "cat" / "cat_3.JPEG").unlink()
    assert resume(other, f"--resume={run / 'latest.pt'}") == 1
    assert "the checkpoint's samples (51) are not this run's (50)" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree, "--lr=1e30", "--log_every=1") == 1
    assert "the loss became nan" in capsys.readouterr().err


def test_accumulation_sees_the_same_batches(tree: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half the batch twice: the first losses differ by what batch norm sees of them alone."""
    assert pretrain(tree, "--checkpoint_dir=halves", "--batch_size=8", "--accumulate=2", "--clip_grad=1e9") == 0
    rows = [json.loads((folder / "recipe.json").read_text()) for folder in (Path("halves"), run)]
    assert rows[0]["batch_size"] * rows[0]["accumulate"] == rows[1]["batch_size"]
    firsts = [
        next(
            row
            for line in (folder / "log.jsonl").read_text().splitlines()
            if (row := json.loads(line))["kind"] == "steps"
        )
        for folder in (Path("halves"), run)
    ]
    assert firsts[0]["lr"] == firsts[1]["lr"]
    assert firsts[0]["loss"] == pytest.approx(firsts[1]["loss"], rel=0.1)
    capsys.readouterr()


@pytest.fixture(scope="module")
def dtd(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dtd")
    shutil.copytree(tree / "train", root / "images")
    (root / "labels").mkdir()
    for split, indices in {"train1": range(8), "val1": range(8, 12), "test1": range(12, 17)}.items():
        lines = [f"{name}/{name}_{index}.JPEG" for name in ("astronaut", "cat", "coffee") for index in indices]
        (root / "labels" / f"{split}.txt").write_text("\n".join(lines))
    return root


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
        (["--fold=11"], "'test11' has no list"),
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
