"""`twistnet demo` from photographs to its table, with training cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from twistnet import recipes
from twistnet.__main__ import main


def test_the_demo_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, epochs in (("demo", 2), ("demo_dtd", 2)):
        short = recipes.named(name).with_changes(model="test_resnet", epochs=epochs, size=32, eval_size=32)
        monkeypatch.setitem(recipes._RECIPES, name, lambda short=short: short)
    assert main(["demo", "--out=here", "--seed=3"]) == 0
    printed = capsys.readouterr().out

    rows = json.loads(next(Path("here").glob("runs/*/demo.json")).read_text())
    assert [row["what"] for row in rows] == [
        "pretraining, validation",
        "textures from pretrained weights, test",
        "textures from scratch, test",
    ]
    for row in rows:
        assert f"{row['what']:<38}{row['accuracy']:>9.1%}" in printed
        folder = Path(row["folder"])
        with Image.open(folder / "curves.png") as curves:
            assert min(curves.size) > 400
        assert json.loads((folder / "recipe.json").read_text())["seed"] == 3
        assert row["images_per_s"] > 0
    origins = [json.loads(Path(row["folder"], "result.json").read_text())["weights"] for row in rows[1:]]
    assert origins == [f"{rows[0]['folder']}/test_resnet_imagenet.pt", None]
    better = rows[1]["accuracy"] > rows[2]["accuracy"]
    assert f"Pretrained weights {'helped' if better else 'did not help'}: {rows[1]['accuracy']:.1%}" in printed
    for sheet in ("photographs.png", "dtd.png"):
        with Image.open(Path("here") / sheet) as image:
            assert image.width > 400
    tests = [len(path.read_text().splitlines()) for path in Path("here/data/dtd/labels").glob("test1.txt")]
    assert [json.loads(Path(row["folder"], "result.json").read_text())["test_samples"] for row in rows[1:]] == tests * 2

    # The data sets are kept, and what was run before stays.
    made = {path: path.stat().st_mtime_ns for path in Path("here/data").rglob("*.J*")}
    assert made
    assert main(["demo", "--out=here", "--seed=3", "--epochs=2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("here/data").rglob("*.J*")} == made
    assert len(list(Path("here/runs").iterdir())) == 2


@pytest.mark.parametrize(("argv", "message"), [(["--epochs=0"], "epochs 0"), (["--seed=-1"], "seed -1")])
def test_the_demo_refuses_before_it_makes_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *argv]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_refuses_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(["demo"]) == 1
    assert "one process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
