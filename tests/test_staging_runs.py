"""The training commands read through a staging folder what they read directly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from test_bottleneck import SEEN, SETTING
from training import pretrain

from twistnet.__main__ import main

pytest_plugins = ("staging_sets",)


def losses(folder: Path) -> list[Any]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["loss"], row["val_loss"]) for row in rows if row["kind"] == "epoch"]


def test_a_run_from_a_url_trains_as_one_from_the_folder(
    many_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(str(many_shards) + "/", "/runs/set/", recursive=True)
    assert pretrain(many_shards, "--checkpoint_dir=direct", "--no_publish") == 0
    flags = ["--checkpoint_dir=staged", "--no_publish", "--stage=stage", "--stage_gb=0.1"]
    try:
        assert pretrain("memory://runs/set", *flags) == 0
        assert losses(tmp_path / "staged") == losses(tmp_path / "direct")
        said = capsys.readouterr().out
        assert "Reading memory://runs/set: store shards (staged in stage)" in said
        assert pretrain("memory://runs/set", *flags, "--resume=staged/latest.pt") == 0
    finally:
        memory.rm("/runs", recursive=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data_dir=s3://bucket/set"],
            "s3://bucket/set is a URL, which is read by way of a local folder: give",
        ),
        (["--data_dir=SET", "--stage_gb=3"], "stage_gb 3 bounds a staging folder: name it with --stage."),
        (["--data_dir=SET", "--stage=stage", "--stage_gb=0"], "stage_gb 0 is too small: take more than 0"),
        (["--data_dir=SET", "--stage=stage", "--stage_gb=0.0001"], "(--stage_gb 0.002), or take --set shuffle=window."),
        (["--data_dir=SET", "--stage=stage", "--store=beton"], "store 'beton' cannot be staged"),
    ],
)
def test_a_run_that_cannot_be_staged_is_refused(
    many_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [flag.replace("SET", str(many_shards)) for flag in flags]
    for command in (["pretrain", "--no_publish", "--recipe=demo"], ["finetune", "--recipe=demo_dtd"]):
        assert main([*command, "--device=cpu", "--workers=1", "--model=test_resnet", *given]) == 1
        said = capsys.readouterr().err
        # The set has no folds, which finetune finds first where a set can be looked at.
        assert message in said or (command[0] == "finetune" and "has no split" in said)
    assert not (tmp_path / "checkpoints").exists()


def test_an_empty_data_dir_is_refused_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--data_dir="]) == 2
    assert "--data_dir '' is no URL and is empty: name a file or folder" in capsys.readouterr().err


def test_a_run_that_waits_for_shards_says_so() -> None:
    seen = dataclasses.replace(SEEN, stages={"stage": 18.0, "decode": 1.0})
    assert SETTING.line(seen) == (
        "bound by: stage (source of the shards), 38% of steps waited for data; try a larger --stage_gb, smaller shards "
        "(twistnet convert --shard_size 0.1), or images converted smaller (twistnet convert --images max_side=400)"
    )
