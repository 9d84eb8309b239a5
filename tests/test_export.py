"""An export is the run's model to the bit, for timm as for us, and nothing else is ever overwritten."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor
from training import pretrain

from twistnet import exporting
from twistnet.__main__ import main
from twistnet.exporting import config_of
from twistnet.trained import read_export, read_run

pytest_plugins = ("training", "exports")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_timm_makes_the_runs_model_of_an_export(tuned: Path, exported: Path) -> None:
    assert sorted(os.listdir(exported)) == ["README.md", "config.json", "model.safetensors"]
    best = torch.load(tuned / "best.pt", weights_only=True)
    right = timm.create_model("test_resnet", num_classes=3).eval()
    right.load_state_dict(best["model"])
    found = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    assert same(found.state_dict(), best["model"])
    assert same(safetensors.torch.load_file(exported / "model.safetensors"), best["model"])
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), right(images))
    assert found.num_classes == 3
    assert list(found.pretrained_cfg["label_names"]) == ["astronaut", "cat", "coffee"]
    shown = resolve_model_data_config(found)
    assert shown["input_size"] == (3, 32, 32) or shown["input_size"] == [3, 32, 32]
    assert (shown["crop_pct"], shown["interpolation"], shown["crop_mode"]) == (0.875, "bilinear", "center")
    assert tuple(shown["mean"]) == (0.485, 0.456, 0.406)
    assert tuple(shown["std"]) == (0.229, 0.224, 0.225)
    assert json.loads((exported / "config.json").read_text())["num_features"] == right.num_features


def test_twistnet18_comes_back_and_its_onnx_file_gives_the_same(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    assert pretrain(tree, "--model=twistnet18", "--size=64", "--epochs=1", "--no_publish") == 0
    capsys.readouterr()
    assert main(["export", "--run_dir=checkpoints", "--out=shared/exported", "--onnx"]) == 0
    assert "model.onnx gives torch's outputs, within " in capsys.readouterr().out
    found = timm.create_model("local-dir:shared/exported", pretrained=True).eval()
    assert type(found).__name__ == "TwistNet"
    assert same(found.state_dict(), torch.load("checkpoints/best.pt", weights_only=True)["model"])
    images = torch.randn(5, 3, 64, 64)
    session = onnxruntime.InferenceSession("shared/exported/model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), found(images), rtol=0, atol=1e-4)
    assert sorted(os.listdir("shared/exported")) == ["README.md", "config.json", "model.onnx", "model.safetensors"]


def changed_run(tuned: Path, to: Path, name: str, **changes: Any) -> Path:
    """A copy of the run whose checkpoint says something else."""
    shutil.copytree(tuned, to)
    state = torch.load(to / name, weights_only=True)
    (to / name).unlink()  # best.pt and latest.pt may be one file
    torch.save({**state, **changes}, to / name)
    return to


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 1 for name, tensor in state.items()}


def test_the_checkpoint_and_the_moving_average_are_those_that_were_scored(tuned: Path, tmp_path: Path) -> None:
    own = torch.load(tuned / "latest.pt", weights_only=True)["model"]
    run = changed_run(tuned, tmp_path / "latest", "latest.pt", model=shifted(own))
    assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'a'}", "--checkpoint=latest"]) == 0
    assert same(safetensors.torch.load_file(tmp_path / "a" / "model.safetensors"), shifted(own))
    run = changed_run(tuned, tmp_path / "best", "best.pt", ema=shifted(own))
    assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'b'}"]) == 0
    assert same(safetensors.torch.load_file(tmp_path / "b" / "model.safetensors"), shifted(own))


def test_what_timm_has_no_name_for_is_kept_beside(tuned: Path, tmp_path: Path) -> None:
    recipe = torch.load(tuned / "best.pt", weights_only=True)["recipe"]
    area = {**recipe, "interpolation": "area", "flip_tta": True, "amp": False, "crop_pct": 1}
    run = changed_run(tuned, tmp_path / "run", "best.pt", recipe=area, decoder="ffcv")
    assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'out'}"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_cfg"]["interpolation"] == "box"
    back = read_export(tmp_path / "out", torch.device("cpu"))
    assert back.preparation == read_run(run).trained(torch.device("cpu")).preparation
    assert back.preparation.interpolation == "area"
    assert back.preparation.flip_tta
    assert config_of(back)["twistnet"] == config["twistnet"]


def test_an_export_is_replaced_and_nothing_else_is(
    tuned: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(message: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert main(["export", f"--run_dir={tuned}", f"--out={out}"]) == 1
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before

    out.write_text("")
    refused("is a file: name a folder")
    out.unlink()
    out.mkdir()
    assert main(["export", f"--run_dir={tuned}", f"--out={out}"]) == 0  # an empty one is nobody's
    (out / "model.safetensors").write_bytes(b"damaged")
    assert main(["export", f"--run_dir={tuned}", f"--out={out}"]) == 0
    assert (out / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    (out / ".git").mkdir()
    refused("holds .git beside an export, which would be lost")
    shutil.rmtree(out / ".git")
    (out / "config.json").write_text('{"architecture": "resnet18"}')
    refused("is there already and no export: name another folder")
    assert os.listdir(tmp_path) == ["out"]


def test_an_export_that_fails_leaves_the_one_of_before(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(["export", f"--run_dir={tuned}", f"--out={out}"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "model_card", fail)
    assert main(["export", f"--run_dir={tuned}", f"--out={out}", "--license=mit"]) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_model_that_timm_loads_as_another_one_is_not_shared(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = timm.create_model

    def create(name: str, **options: Any) -> torch.nn.Module:
        return real("test_resnet", num_classes=3) if name.startswith("local-dir:") else real(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    assert main(["export", f"--run_dir={tuned}", f"--out={tmp_path / 'out'}"]) == 1
    assert "test_resnet is another model when timm loads it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_that_cannot_be_exported_are_refused(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(run: Path, message: str, *flags: str) -> None:
        assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'out'}", *flags]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "nowhere", "nowhere does not exist: name the --run_dir or --checkpoint_dir of a run")
    refused(tmp_path, "holds no best.pt: name a run's, or train first")
    refused(tuned, "--license is empty", "--license=")
    without = shutil.copytree(tuned, tmp_path / "without")
    (without / "best.pt").unlink()
    refused(without, "holds no best.pt: take --checkpoint latest")
    other = timm.create_model("test_resnet", num_classes=7).state_dict()
    refused(changed_run(tuned, tmp_path / "b", "best.pt", model=other), "are not those of test_resnet with 3 classes")
    data = torch.load(tuned / "best.pt", weights_only=True)["data"]
    for number, classes in enumerate((None, [], "cat", [1, 2, 3])):
        run = changed_run(tuned, tmp_path / f"c{number}", "best.pt", data={**data, "classes": classes})
        other_kind = f"holds data's classes as {type(classes).__name__} where a run writes list"
        refused(run, "the list of classes is no list of names" if isinstance(classes, list) else other_kind)


def test_a_probe_is_exported_with_its_final_weights(
    probed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list(probed.glob("best.pt"))
    (pt,) = probed.glob("test_resnet_*.pt")
    right = torch.load(pt, weights_only=True)
    for checkpoint in ("best", "latest"):
        out = tmp_path / checkpoint
        assert main(["export", f"--run_dir={probed}", f"--out={out}", f"--checkpoint={checkpoint}"]) == 0
        assert "[Warning]" not in capsys.readouterr().out
        assert same(safetensors.torch.load_file(out / "model.safetensors"), right)
    back = read_export(tmp_path / "best", torch.device("cpu"))
    assert back.classes == ("astronaut", "cat", "coffee")
    assert back.preparation == read_run(probed).trained(torch.device("cpu")).preparation
    assert back.preparation.decoder == json.loads((probed / "env.json").read_text())["decoder"] != "auto"


def test_a_probe_with_damaged_files_is_refused(
    probed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(probed, tmp_path / "run")
    (weights,) = run.glob("*.safetensors")
    for damage, message in (
        (lambda: (run / "predictions.npz").write_bytes(b"torn"), "predictions.npz, which names a probe's classes, can"),
        (lambda: weights.write_bytes(b"torn"), "holds no weights ("),
        (weights.unlink, "holds 0 files test_resnet_*.safetensors where a probe has one"),
    ):
        damage()
        assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'out'}"]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()


def keep_epochs(run: Path, last: int) -> None:
    """Cuts the log of a run after an epoch."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["kind"] != "epoch" or row["epoch"] <= last]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_an_unfinished_fine_tuning_is_told(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = changed_run(tuned, tmp_path / "run", "best.pt", epoch=1)
    assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'whole'}"]) == 0
    assert "[Warning]" not in capsys.readouterr().out
    assert "unfinished" not in (tmp_path / "whole" / "README.md").read_text()
    (run / "result.json").unlink()
    for last in (4, 2):  # its weights are of use all the same
        keep_epochs(run, last)
        assert main(["export", f"--run_dir={run}", f"--out={tmp_path / 'out'}"]) == 0
        said = f"unfinished after epoch {last} of 4, not tested"
        assert f"[Warning] {run} is {said}: the card says so.\n" in capsys.readouterr().out
        card = (tmp_path / "out" / "README.md").read_text()
        assert f"- The run is {said}.\n" in card.partition("## Limits")[2]


def test_an_unfinished_pretraining_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"--run_dir={run}", "--out=whole"]) == 0
    assert "[Warning]" not in capsys.readouterr().out, "pretraining is not tested"
    state = torch.load(run / "best.pt", weights_only=True)
    (run / "best.pt").unlink()
    torch.save({**state, "epoch": 1}, run / "best.pt")
    keep_epochs(run, 1)
    assert main(["export", f"--run_dir={run}", "--out=out"]) == 0
    assert f"[Warning] {run} is unfinished after epoch 1 of 2: the card says so.\n" in capsys.readouterr().out
    assert "- The run is unfinished after epoch 1 of 2.\n" in Path("out/README.md").read_text()
