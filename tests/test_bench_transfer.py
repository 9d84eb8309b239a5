"""Pretrained beside scratch at its smallest: rows say what the runs' own files do, and a second call trains nothing."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from benches import bench

from bench import transfer
from bench.transfer import Group

pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("results")


def results_of(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    return {(result["fold"], result["seed"]): result for result in found}


def made(model: str, start: str, top1: dict[tuple[int, int], float]) -> Group:
    same = {"num_classes": 47, "test_samples": 188, "weights_sha256": None}
    return Group(
        model=model,
        start=start,
        runs={
            pair: {"test_top1": one, "test_balanced": one, "val_top1": 2 * one, **same} for pair, one in top1.items()
        },
    )


def test_rows_are_what_the_runs_came_to(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--models=test_resnet", "--folds=1,3", "--seeds=5,7", "--epochs=1", "--tuning_epochs=1", "--size=32")
    asked = (*flags, "--photographs=4", "--workers=1", "--device=cpu", f"--run_dir={tmp_path / 'kept'}")
    assert bench("transfer", *asked) == 0
    with (results / "transfer.csv").open() as file:
        rows = {row["start"]: row for row in csv.DictReader(file)}
    runs = {start: results_of(tmp_path / "kept" / start) for start in ("pretrained", "scratch")}
    printed = capsys.readouterr().out
    assert set(rows) == set(runs)
    for start, row in rows.items():
        found = runs[start]
        assert sorted(found) == [(1, 5), (1, 7), (3, 5), (3, 7)]
        means = {seed: (found[1, seed]["test_top1"] + found[3, seed]["test_top1"]) / 2 for seed in (5, 7)}
        folds = [(found[fold, 5]["test_top1"] + found[fold, 7]["test_top1"]) / 2 for fold in (1, 3)]
        assert (row["model"], row["n"], row["num_classes"], row["test_samples"]) == ("test_resnet", "4", "47", "188")
        assert float(row["test_top1"]) == pytest.approx(statistics.mean(means.values()), abs=1e-4)
        assert float(row["std_seeds"]) == pytest.approx(statistics.stdev(means.values()), abs=1e-4)
        assert float(row["std_folds"]) == pytest.approx(statistics.stdev(folds), abs=1e-4)
        for column, name in (("balanced", "test_balanced"), ("val_top1", "val_top1")):
            assert float(row[column]) == pytest.approx(statistics.mean(r[name] for r in found.values()), abs=1e-4)
        assert float(row["chance"]) == pytest.approx(1 / 47, abs=1e-4)
        assert row["runs"].split() == [
            f"{fold}/{seed}:{r['test_top1']:.4f}" for (fold, seed), r in sorted(found.items())
        ]
        assert "photographs=52 subjects=13 per_class=12 folds=1,3 seeds=5,7" in row["options"]
        assert f"{float(row['test_top1']):.1%}" in printed

    gains = [
        statistics.mean(
            runs["pretrained"][fold, s]["test_top1"] - runs["scratch"][fold, s]["test_top1"] for fold in (1, 3)
        )
        for s in (5, 7)
    ]
    assert float(rows["pretrained"]["difference"]) == pytest.approx(statistics.mean(gains), abs=1e-4)
    assert float(rows["pretrained"]["difference_std_seeds"]) == pytest.approx(statistics.stdev(gains), abs=1e-4)
    assert rows["scratch"]["difference"] == rows["scratch"]["difference_by_seed"] == ""

    weights = tmp_path / "kept" / "pretraining" / "test_resnet" / "test_resnet_imagenet.pt"
    assert {result["weights"] for result in runs["pretrained"].values()} == {str(weights)}
    assert {result["weights_sha256"] for result in runs["pretrained"].values()} == {
        rows["pretrained"]["weights_sha256"]
    }
    assert {result["weights"] for result in runs["scratch"].values()} == {None}
    for start in runs:
        for recipe in (tmp_path / "kept" / start).rglob("recipe.json"):
            assert json.loads(recipe.read_text())["name"] == "demo_dtd"
    for fold, seed in runs["scratch"]:  # in pairs: nothing but the weights differs
        first, second = (
            json.loads(
                (tmp_path / "kept" / start / "test_resnet" / f"fold{fold:02d}-seed{seed}" / "recipe.json").read_text()
            )
            for start in runs
        )
        assert first == second

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("result.json")}
    assert bench("transfer", *asked) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("result.json")} == before


def test_spreads_are_those_of_means_over_folds_and_over_seeds() -> None:
    pairs = [(1, 42), (1, 43), (2, 42), (2, 43)]
    groups = [
        made("b", "scratch", dict(zip(pairs, (0.1, 0.1, 0.2, 0.2), strict=True))),
        made("a", "pretrained", dict(zip(pairs, (0.5, 0.7, 0.3, 0.5), strict=True))),
        made("b", "pretrained", dict(zip(pairs, (0.2, 0.2, 0.3, 0.3), strict=True))),
        made("a", "scratch", dict(zip(pairs, (0.1, 0.4, 0.1, 0.4), strict=True))),
    ]
    rows = transfer.rows_of(groups)
    assert [(row["model"], row["start"]) for row in rows] == [
        *(("b", "pretrained"), ("b", "scratch")),
        *(("a", "pretrained"), ("a", "scratch")),
    ]
    a = rows[2]
    # Seeds' means 0.4 and 0.6, folds' 0.6 and 0.4; scratch's 0.1 and 0.4: gains of 0.3 and 0.2.
    assert (a["test_top1"], a["std_seeds"], a["std_folds"], a["val_top1"]) == (0.5, 0.1414, 0.1414, 1.0)
    assert (a["difference"], a["difference_std_seeds"]) == (0.25, 0.0707)
    assert a["difference_by_seed"] == "42:+0.3000 43:+0.2000"
    assert (rows[0]["std_seeds"], rows[0]["difference_std_seeds"], rows[3]["std_folds"]) == (0.0, 0.0, 0.0)
    assert transfer.table(rows).splitlines()[3].split() == [
        *("a", "pretrained", "50.0%", "14.1%", "14.1%", "4", "50.0%", "+25.0%", "7.1%")
    ]


def test_one_run_has_no_spread() -> None:
    rows = transfer.rows_of([made("a", start, {(1, 42): 0.5}) for start in transfer.STARTS])
    assert (rows[0]["std_seeds"], rows[0]["std_folds"], rows[0]["difference_std_seeds"]) == ("", "", "")
    assert rows[0]["difference"] == 0.0
    assert transfer.table(rows).splitlines()[1].split()[3:5] == ["-", "-"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--folds=1,11", "--folds 11 is none of the miniature's"),
        ("--tuning_epochs=0", "--tuning_epochs 0 is too small"),
        ("--models=no_such_net", "no_such_net"),
        ("--seeds=1,1", "--seeds gives 1 twice"),
        ("--seeds=1,-1", "seed -1"),
        ("--per_class=11", "per_class is 11"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    flag: str, message: str, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("transfer", flag, f"--run_dir={tmp_path / 'kept'}") == 1
    assert message in capsys.readouterr().err
    assert not results.exists()
    assert not (tmp_path / "kept").exists()
