"""Runs are found at any depth, kept apart where they are not alike, and what is missing is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sweeps import write_log, write_run, write_sweep

from loaders import InputError
from twistnet.reports.collect import Found, Table, collect


def only(found: Found) -> Table:
    (table,) = found.tables
    return table


def labels(table: Table) -> list[str]:
    return [row.label for row in table.rows]


def grid(low: float) -> dict[tuple[int, int], float]:
    return {(fold, seed): low + 0.01 * fold + 0.001 * seed for fold in (1, 2) for seed in (0, 1)}


def test_results_are_found_at_any_depth_and_grouped_by_model(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a" / "deep", {"twistnet18": grid(0.7)})
    write_sweep(tmp_path, {"resnet18": grid(0.6)})
    found = collect(tmp_path)
    table = only(found)
    assert found.warnings == ()
    assert (table.dataset, table.common) == ("dtd", "recipe dtd, 100 epochs, all layers, pretrained")
    assert labels(table) == ["resnet18", "twistnet18"]
    (resnet, twistnet) = table.rows
    assert {run.pair: run.test_top1 for run in twistnet.runs} == grid(0.7)
    assert (resnet.folds, resnet.seeds, len(resnet.runs)) == (2, 2, 4)


def test_data_sets_have_tables_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "one", dataset="kth", num_classes=11)
    write_run(tmp_path / "two", dataset="fmd", num_classes=10)
    assert [table.dataset for table in collect(tmp_path).tables] == ["fmd", "kth"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"epochs": 50}, ["resnet18 (100 epochs)", "resnet18 (50 epochs)"]),
        ({"recipe": "dtd_scratch"}, ["resnet18 (recipe dtd)", "resnet18 (recipe dtd_scratch)"]),
        ({"tune": "probe"}, ["resnet18 (all layers)", "resnet18 (linear probe)"]),
        ({"tune": "classifier"}, ["resnet18 (all layers)", "resnet18 (classifier only)"]),
        ({"weights": None, "weights_sha256": None}, ["resnet18 (from scratch)", "resnet18 (pretrained)"]),
        ({"changes": {"lr": 0.5}}, ["resnet18 (lr=0.04)", "resnet18 (lr=0.5)"]),
    ],
)
def test_what_is_not_alike_is_not_averaged_and_told(
    tmp_path: Path, other: dict[str, object], expected: list[str]
) -> None:
    write_run(tmp_path / "a", fold=1)
    write_run(tmp_path / "b", fold=2, **other)  # type: ignore[arg-type]
    found = collect(tmp_path)
    assert sorted(labels(only(found))) == expected
    (told,) = [said for said in found.warnings if "not alike" in said]
    assert all(label in told for label in expected)


def test_another_split_of_one_batch_into_passes_is_alike(tmp_path: Path) -> None:
    write_run(tmp_path / "a", fold=1, changes={"batch_size": 64, "accumulate": 1})
    write_run(tmp_path / "b", fold=2, changes={"batch_size": 32, "accumulate": 2})
    assert labels(only(collect(tmp_path))) == ["resnet18"]


def test_missing_combinations_are_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"resnet18": grid(0.6), "twistnet18": {(1, 0): 0.7, (2, 1): 0.71}})
    assert collect(tmp_path).warnings == ("dtd: twistnet18 lacks 2 of 4 runs: fold 1 seed 1, fold 2 seed 0.",)


def test_what_is_missing_is_counted_among_rows_that_are_alike(tmp_path: Path) -> None:
    write_sweep(tmp_path / "whole", {"resnet18": grid(0.6), "twistnet18": grid(0.7)})
    write_sweep(tmp_path / "probes", {"resnet18": {(1, 0): 0.5, (2, 0): 0.5}, "swin_tiny": {(1, 0): 0.5}}, tune="probe")
    lacking = [said for said in collect(tmp_path).warnings if "lacks" in said]
    assert lacking == ["dtd: swin_tiny (linear probe) lacks 1 of 2 runs: fold 2 seed 0."]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"resnet18": {(fold, 0): 0.6 for fold in range(1, 10)}, "twistnet18": {(1, 0): 0.7}})
    (told,) = collect(tmp_path).warnings
    assert told.endswith("lacks 8 of 9 runs: fold 2 seed 0, fold 3 seed 0, fold 4 seed 0, fold 5 seed 0, "
                         "fold 6 seed 0 and 3 more.")  # fmt: skip


def test_runs_without_a_result_are_named_with_how_far_they_came(tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    for name in ("failed", "stopped"):
        run = write_run(tmp_path / name, fold=2)
        (run / "result.json").unlink()
    write_log(tmp_path / "stopped", [0.1, 0.2, 0.3])
    (tmp_path / "at once").mkdir()
    (tmp_path / "at once" / "error.txt").write_text("no test7.txt: take it from the archive.\n\nTraceback\n")
    (told,) = collect(tmp_path).warnings
    assert told == (
        f"3 runs have no result, unfinished or failed: {tmp_path}/at once (no test7.txt: take it from the archive), "
        f"{tmp_path}/failed, {tmp_path}/stopped (after epoch 3); start again what was to run them."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model": "resnet18"', "cannot be read (Expecting"),
        ("[1, 2]", "holds no named values"),
        ("", "cannot be read (Expecting value"),
        ("\xff\xfe", "cannot be read ("),
        ({"test_top1": 1.5}, "test_top1 1.5 is not a share from 0 to 1"),
        ({"test_top1": float("nan")}, "test_top1 nan is not a share from 0 to 1"),
        ({"test_top1": "0.5"}, "test_top1 '0.5' is not a share"),
        ({"fold": True}, "fold True is not a count"),
        ({"seed": 1.5}, "seed 1.5 is not a whole number"),
        ({"model": "a\nb"}, "model 'a\\nb' is not a name"),
        ({"seconds": float("inf")}, "seconds inf is not a time"),
        ("test_balanced", "no test_balanced"),
        ("weights", "no weights"),
    ],
)
def test_a_corrupt_result_is_named_in_a_sentence_and_skipped(
    tmp_path: Path, text: str | dict[str, object], reason: str
) -> None:
    write_run(tmp_path / "good", fold=1)
    result = write_run(tmp_path / "bad", fold=2) / "result.json"
    values = json.loads(result.read_text())
    if isinstance(text, dict):
        result.write_text(json.dumps(values | text))
    elif text in values:
        result.write_text(json.dumps({name: value for name, value in values.items() if name != text}))
    else:
        result.write_bytes(text.encode("latin-1"))
    found = collect(tmp_path)
    (told,) = found.warnings
    assert str(result) in told
    assert reason in told
    assert told.count("\n") == 0
    assert [run.fold for row in only(found).rows for run in row.runs] == [1]


def test_a_run_without_its_recipe_is_skipped(tmp_path: Path) -> None:
    write_run(tmp_path / "good", fold=1)
    (write_run(tmp_path / "bad", fold=2) / "recipe.json").unlink()
    (told,) = collect(tmp_path).warnings
    assert f"{tmp_path}/bad/recipe.json cannot be read (No such file or directory)" in told


def test_a_second_run_of_one_fold_and_seed_is_left_out_and_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.6)
    write_run(tmp_path / "b", top1=0.9)
    found = collect(tmp_path)
    assert [run.test_top1 for row in only(found).rows for run in row.runs] == [0.6]
    assert found.warnings == (f"{tmp_path}/b is left out: {tmp_path}/a has fold 1 and seed 42 of resnet18 already.",)


def test_other_weights_are_other_rows_named_by_their_file(tmp_path: Path) -> None:
    for fold in (1, 2):
        write_run(tmp_path / f"a{fold}", fold=fold, weights="x/imagenet.pt", weights_sha256="a" * 64)
        write_run(tmp_path / f"b{fold}", fold=fold, weights="x/tiny.pt", weights_sha256="b" * 64, epochs=50)
        write_run(tmp_path / f"c{fold}", fold=fold, model="swin", weights="x/swin.pt", weights_sha256="c" * 64)
    write_run(tmp_path / "moved", fold=3, weights="y/copy.pt", weights_sha256="a" * 64)
    table = only(collect(tmp_path))
    assert sorted(labels(table)) == [
        "resnet18 (100 epochs, from imagenet.pt)",
        "resnet18 (50 epochs, from tiny.pt)",
        "swin (100 epochs)",
    ]
    by_label = {row.label: [run.folder.name for run in row.runs] for row in table.rows}
    assert by_label["resnet18 (100 epochs, from imagenet.pt)"] == ["a1", "a2", "moved"]


def test_no_run_from_other_weights_is_taken_for_a_second_one(tmp_path: Path) -> None:
    write_run(tmp_path / "a", weights="one/best.pt", weights_sha256="0123456789")
    write_run(tmp_path / "b", weights="two/best.pt", weights_sha256="abcdefghij")
    found = collect(tmp_path)
    expected = ["resnet18 (from best.pt 01234567)", "resnet18 (from best.pt abcdefgh)"]
    assert labels(only(found)) == expected
    assert found.warnings == (f"dtd: kept in rows of their own, for they are not alike: {'; '.join(expected)}.",)


def test_own_folders_of_other_classes_have_tables_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "birds", dataset="folder", num_classes=200, model="swin")
    write_run(tmp_path / "cars", dataset="folder", num_classes=196)
    found = collect(tmp_path)
    assert [(table.dataset, labels(table)) for table in found.tables] == [
        ("folder (196 classes)", ["resnet18"]),
        ("folder (200 classes)", ["swin"]),
    ]
    assert found.warnings == (
        "folder: kept in tables of their own, for they are of different data: "
        f"folder (196 classes), as of {tmp_path}/cars; folder (200 classes), as of {tmp_path}/birds.",
    )


def test_sweeps_of_other_test_splits_have_tables_of_their_own(tmp_path: Path) -> None:
    for sweep, folds in (("a", (3,)), ("b", (1, 2, 3)), ("c", (3, 4)), ("d", (1,))):
        for fold in folds:
            run = tmp_path / sweep / f"model_{sweep}" / f"fold{fold:02d}-seed0"
            kind = {"b": "bark", "d": "bark"}.get(sweep, "cloth")
            write_run(run, dataset="folder", model=f"model_{sweep}", fold=fold, test_fingerprint=f"{kind}{fold}")
        (tmp_path / sweep / "sweep.json").write_text("{}")
    found = collect(tmp_path)
    assert {table.dataset: sorted(labels(table)) for table in found.tables} == {
        "folder": ["model_b", "model_d"],
        "folder, another set": ["model_a", "model_c"],
    }
    assert sum("for they are of different data: folder, as of" in said for said in found.warnings) == 1


def test_a_third_set_is_numbered_and_a_folder_of_mixed_runs_taken_apart(tmp_path: Path) -> None:
    for place, name in enumerate("abc"):
        write_run(tmp_path / "sweep" / name / "run", test_fingerprint=name, top1=0.1 * place)
        write_run(tmp_path / "sweep" / name / "again", test_fingerprint=name, top1=0.1 * place, seed=7)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    found = {table.dataset: [run.test_fingerprint for run in table.rows[0].runs] for table in collect(tmp_path).tables}
    assert found == {"dtd": ["a", "a"], "dtd, another set": ["b", "b"], "dtd, set 3": ["c", "c"]}


@pytest.mark.parametrize("missing", ["train_samples", "test_fingerprint"])
def test_results_of_before_are_named_and_left_out(tmp_path: Path, missing: str) -> None:
    write_run(tmp_path / "new")
    result = write_run(tmp_path / "old", fold=2) / "result.json"
    values = json.loads(result.read_text())
    del values[missing]
    result.write_text(json.dumps(values))
    found = collect(tmp_path)
    assert [run.folder.name for row in only(found).rows for run in row.runs] == ["new"]
    assert found.warnings == (f"{result} is left out (no {missing}): run that fold again, or remove its folder.",)


@pytest.mark.parametrize("content", ["nothing", "only a corrupt one", "no folder"])
def test_nothing_to_report_is_said(tmp_path: Path, content: str) -> None:
    if content == "only a corrupt one":
        (write_run(tmp_path / "a") / "result.json").write_text("{")
    where = tmp_path / "nowhere" if content == "no folder" else tmp_path
    message = {"nothing": "holds no result", "no folder": "is no folder"}.get(content, "cannot be read")
    with pytest.raises(InputError, match=message):
        collect(where)
