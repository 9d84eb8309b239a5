"""What a run refuses before its first step, in the words of the user's own flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from bench.steps import step
from loaders import InputError
from twistnet.building import make_model
from twistnet.distributed import World
from twistnet.recipes import named
from twistnet.step import TrainStep

pytest_plugins = ("training",)
from training import finetune, pretrain  # noqa: E402

CPU = World(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--batch_size=512"], 1, "a total batch of 512 is more than the 51 images of train: lower --batch_size"),
        (["--eval_size", "48"], 2, "--eval_size is no flag but a value of the recipe: write --set eval_size=VALUE"),
        (["--ema-decay=0.9"], 2, "--ema_decay is no flag but a value of the recipe: write --set ema_decay=0.9"),
        (["--epoch=3"], 2, "unknown flag --epoch: did you mean --epochs?"),
        (["--set=scale_min=2"], 1, "scale_min 2.0 is impossible: take above 0, at most 1."),
        (["--set=crop_pct=0"], 1, "crop_pct 0.0 is impossible"),
        (["--set=hflip=2"], 1, "hflip 2.0 is impossible: take 0 to 1."),
        (["--set=mix_group=0"], 1, "mix_group 0 is too small: take at least 2"),
        (["--model=hf_hub:someone/something"], 1, "is unknown to timm: take a name of timm.list_models()"),
        (["--model=resnt18"], 1, "model 'resnt18' is unknown to timm: did you mean resnet18?"),
    ],
)
def test_a_pretraining_that_cannot_be_is_refused(
    flags: list[str], code: int, message: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert pretrain(tree, f"--checkpoint_dir={folder}", "--no_publish", *flags) == code
    assert message in capsys.readouterr().err
    assert not folder.exists()


def test_the_size_that_a_model_cannot_take_is_named() -> None:
    for changes, flag in (
        ({"size": 64}, "--size"),
        ({"eval_size": 64}, "--set eval_size"),
        ({"size": 64, "start_size": 48, "ramp_end": 0.5}, "--set start_size"),
    ):
        recipe = named("demo").with_changes(
            **{"model": "vit_tiny_patch16_224", "size": 224, "eval_size": 224} | changes
        )
        with pytest.raises(InputError, match=rf"pixels \(.*\): change {flag}\."):
            make_model(recipe, 3, CPU)


@pytest.mark.parametrize("fold", [0, 11])
def test_a_fold_that_dtd_does_not_have_is_refused(fold: int, dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(dtd, f"--fold={fold}") == 1
    assert f"--fold {fold} is none of dtd's: take 1 to 10." in capsys.readouterr().err


def test_pretraining_on_dtd_says_what_to_take(dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(dtd) == 1
    assert "is DTD, which has folds: take twistnet finetune --dataset dtd --fold 1." in capsys.readouterr().err


def test_what_does_nothing_in_one_process_is_told(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (f"--checkpoint_dir={tmp_path / 'run'}", "--no_publish", "--epochs=1")
    assert pretrain(tree, *flags, "--set=sync_batch_norm=true,compress_gradients=true") == 0
    assert "sync_batch_norm and compress_gradients without effect: there is one process." in capsys.readouterr().out


def test_the_bench_names_the_nearest_model() -> None:
    with pytest.raises(InputError, match=re.escape("model 'twistnet8' is unknown to timm: did you mean twistnet18?")):
        step(models=("twistnet8",))


def test_a_way_to_compile_that_is_none_is_refused() -> None:
    recipe = named("demo")
    model = make_model(recipe, 3, CPU)
    with pytest.raises(InputError, match="--compile bogus is unknown: choose one of auto, off, on, graphs"):
        TrainStep(model, recipe, CPU, compiling="bogus")  # type: ignore[arg-type]
