"""`twistnet report` as a user calls it."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweeps import rising, write_log, write_predictions, write_run, write_sweep

from twistnet.__main__ import main

PAIRS = [(fold, seed) for fold in (1, 2) for seed in (42, 43)]
CLASSES = ["banded", "dotted", "lined"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two models on two folds and two seeds, with logs, gates and predictions."""
    folder = tmp_path / "runs" / "main"
    low = {pair: 0.60 + 0.01 * place for place, pair in enumerate(PAIRS)}
    write_sweep(folder, {"resnet18": low, "twistnet18": {pair: top1 + 0.05 for pair, top1 in low.items()}})
    for run in folder.glob("*/*"):
        gates = {"layer3.0": [0.12, 0.13, 0.15]} if run.parent.name == "twistnet18" else None
        write_log(run, rising(0.6, 3), gates)
        write_predictions(run, [0, 0, 1, 2], [0, 1, 1, 2], CLASSES)
    Image.new("RGB", (80, 60)).save(tmp_path / "image.png")
    return folder


NAMES = {"accuracy", "runs", "parameters", "flops", "curves", "gates", "confusion"}


def test_a_sweeps_folder_is_reported(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "dtd: recipe dtd, 100 epochs, all layers, pretrained" in printed
    assert "+5.00" in printed
    assert "of twistnet18:\n  banded taken for dotted: 50.0% (4)\n" in printed
    assert "[Warning]" not in printed
    folder = sweep / "report"
    records = list(csv.DictReader((folder / "table.csv").open()))
    assert [record["model"] for record in records] == ["resnet18", "twistnet18"]
    assert all(0 < int(record["flops"]) < 4e9 for record in records)
    assert "| **66.50 ± 1.29** |" in (folder / "table.md").read_text()
    assert r"\textbf{66.50 $\pm$ 1.29}" in (folder / "table.tex").read_text()
    written = {path.name for path in folder.iterdir()}
    figures = {f"dtd-{name}.{kind}" for name in NAMES for kind in ("png", "pdf")}
    assert written == figures | {"table.md", "table.tex", "table.csv"}
    for name in sorted(figures):
        if name.endswith(".pdf"):
            content = (folder / name).read_bytes()
            assert content.startswith(b"%PDF")
            assert content.rstrip().endswith(b"%%EOF")
            continue
        with Image.open(folder / name) as picture:
            assert 3.3 * 300 < picture.width < 7.1 * 300, "a column or a page at 300 dots an inch"
            gray = np.asarray(picture.convert("L"))
        assert 0.001 < (gray < 200).mean() < 0.6, f"{name} holds ink and paper"


def test_the_same_runs_give_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert main(["report", f"--run_dir={sweep}", f"--out={tmp_path / out}", "--baseline=twistnet18"]) == 0
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert not (sweep / "report").exists()
    first, second = csv.DictReader((tmp_path / "one" / "table.csv").open())
    assert (first["model"], first["is_baseline"]) == ("twistnet18", "True")
    assert float(second["difference"]) == pytest.approx(-0.05)


def test_a_single_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "nan" not in printed.lower()
    assert "Drawn, as PNG and PDF: dtd-accuracy, dtd-runs, dtd-parameters, dtd-flops\n" in printed
    assert "[Warning] The confusion matrix of resnet18 is without 1 run: " in printed


def test_what_is_wrong_is_told_and_the_rest_reported(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "resnet18" / "fold01-seed42" / "result.json").write_text("{")
    (sweep / "twistnet18" / "fold02-seed43" / "result.json").unlink()
    write_run(sweep / "unknown" / "fold01-seed42", model="a_model_of_tomorrow", dataset="../fmd")
    assert main(["report", str(sweep)]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[Warning]")]
    for said in (
        "resnet18/fold01-seed42/result.json cannot be read",
        "1 run has no result, unfinished or failed: ",
        "dtd: resnet18 lacks 1 of 4 runs: fold 1 seed 42.",
        "dtd: twistnet18 lacks 1 of 4 runs: fold 2 seed 43.",
    ):
        assert sum(said in warning for warning in warnings) == 1, said
    names = {path.name for path in (sweep / "report").iterdir()}
    assert "___fmd-accuracy.png" in names, "a data set's name leads to no other folder"
    assert "___fmd-flops.png" not in names, "of a model that cannot be counted"


def test_own_folders_are_reported_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, (name, classes) in enumerate((("cars", 196), ("birds", 200), ("other birds", 200))):
        changes = {"dataset": "folder", "num_classes": classes, "test_fingerprint": name}
        write_sweep(tmp_path / name, {"resnet18": {(1, 0): 0.1 * place}, "twistnet18": {(1, 0): 0.2}}, **changes)
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    records = list(csv.DictReader((tmp_path / "report" / "table.csv").open()))
    assert [(record["dataset"], record["label"], float(record["top1_mean"])) for record in records] == [
        ("folder (196 classes)", "resnet18", 0.0),
        ("folder (196 classes)", "twistnet18", 0.2),
        ("folder (200 classes)", "resnet18", 0.1),
        ("folder (200 classes)", "twistnet18", 0.2),
        ("folder (200 classes), another set", "resnet18", 0.2),
        ("folder (200 classes), another set", "twistnet18", 0.2),
    ]
    assert "[Warning] folder: kept in tables of their own, for they are of different data: folder (196 " in printed
    assert "is left out" not in printed
    assert len(list((tmp_path / "report").glob("*-accuracy.png"))) == 3


def test_without_matplotlib_there_are_tables(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert main(["report", str(sweep)]) == 0
    assert "No figures are drawn, for matplotlib is not installed: pip install" in capsys.readouterr().out
    assert {path.name for path in (sweep / "report").iterdir()} == {"table.md", "table.tex", "table.csv"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere is no folder: name that of a sweep"),
        (["{sweep}", "--baseline=swin"], "--baseline swin has no runs: name one of 'resnet18', 'twistnet18'."),
        (["{sweep}", "--image=nowhere.jpg"], "nowhere.jpg does not exist"),
        (["{sweep}", "--image={sweep}/resnet18/fold01-seed42/result.json"], "cannot be read as an image"),
        (["{sweep}", "--image={sweep}/../../image.png"], "--image needs a run of a model with twist blocks that has"),
    ],
)
def test_refusals_write_nothing(
    sweep: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["report", *(flag.format(sweep=sweep) for flag in flags)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, "one sentence"
    assert not (sweep / "report").exists()
