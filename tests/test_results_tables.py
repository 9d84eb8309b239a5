"""The tables say what the runs came to, in every form, and are well-formed whatever the names."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import timm
from sweeps import write_run, write_sweep

from loaders import InputError
from twistnet.counting import cost
from twistnet.reports import tables
from twistnet.reports.collect import Table, collect
from twistnet.reports.statistics import compare
from twistnet.reports.tables import Line

PAIRS = [(fold, seed) for fold in (1, 2, 3) for seed in (0, 1)]
RESNET = dict(zip(PAIRS, [0.60, 0.62, 0.58, 0.61, 0.63, 0.59], strict=True))
TWIST = dict(zip(PAIRS, [0.61, 0.65, 0.60, 0.62, 0.64, 0.63], strict=True))
HOSTILE = r"a_b|c&d%e$f#g{h}~i^j\k*l<m>"


def only(folder: Path) -> Table:
    (table,) = collect(folder).tables
    return table


def lines_of(table: Table, baseline: str | None = None) -> list[Line]:
    return tables.lines_of(table, tables.choose_baseline(table, baseline), lambda _: 2 * 10**9)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two models on three folds and two seeds, with as many test images as training images."""
    return only(write_sweep(tmp_path, {"twistnet18": TWIST, "resnet18": RESNET}))


def test_the_text_has_the_numbers(table: Table) -> None:
    head, ruler, *rows = tables.as_text(lines_of(table)).splitlines()
    assert len({len(line) for line in (head, ruler, *rows)}) == 1, "aligned"
    first, second = (re.split(r"\s{2,}", row) for row in rows)
    # By hand: squares sum to 0.00175, over 5; the folds' means are 0.61, 0.595 and 0.61, whose squares sum to 0.00015,
    # over 2; the variances within folds are 0.0002, 0.00045 and 0.0008, over 3.
    assert first[:5] == ["resnet18", "3 x 2", "60.50 ± 1.87", "0.87", "2.20"]
    assert second[:3] == ["twistnet18", "3 x 2", "62.50 ± 1.87"]
    assert first[-3:] == ["baseline", "-", "-"]
    (expected,) = compare([TWIST], RESNET, 1.0)
    assert expected is not None
    assert expected.t_p is not None
    assert second[-3:] == ["+2.00", f"{expected.t_p:.4f}", "-"], "three folds are too few for Wilcoxon's test"


def test_the_tests_are_over_folds_with_the_sizes_of_the_runs_splits(tmp_path: Path) -> None:
    differences = {1: [0.01, 0.03], 2: [0.02, -0.01], 3: [0.03, 0.02], 4: [0.0, 0.01], 5: [0.02, 0.03], 6: [0.04, 0.01]}
    pairs = [(fold, seed) for fold in differences for seed in (0, 1)]
    other = {(fold, seed): 0.6 + differences[fold][seed] for fold, seed in pairs}
    sweep = write_sweep(
        tmp_path, {"resnet18": dict.fromkeys(pairs, 0.6), "a": other}, test_samples=1000, train_samples=4000
    )
    table = only(sweep)
    _, line = lines = lines_of(table)
    means = [0.02, 0.005, 0.025, 0.005, 0.025, 0.025]  # by hand
    t = np.mean(means) / math.sqrt((1 / 6 + 1000 / 4000) * np.var(means, ddof=1))
    assert line.comparison is not None
    assert line.comparison.t == pytest.approx(t)
    assert line.comparison.t_p == pytest.approx(2 * scipy.stats.t.sf(t, 5))
    assert line.comparison.wilcoxon_p == pytest.approx(2 / 64), "all six folds have one sign"
    said = tables.notes(table, lines)[-1]
    assert "test / train = 0.25)" in said
    assert "Wilcoxon: signed-rank, exact" in said
    assert "single fold" not in said
    assert "no " not in said, "nothing is left out"


def test_small_p_values_are_no_zeros(tmp_path: Path) -> None:
    pairs = [(fold, seed) for fold in range(1, 11) for seed in range(3)]
    other = {pair: 0.7 + 0.001 * place for place, pair in enumerate(pairs)}
    lines = lines_of(only(write_sweep(tmp_path, {"resnet18": dict.fromkeys(pairs, 0.6), "twistnet18": other})))
    assert "<0.0001" in tables.as_text(lines)
    assert "$<0.0001$" not in tables.as_markdown(lines)
    assert "$<0.0001$" in tables.as_latex(lines)


def test_a_baseline_is_chosen_by_model_or_label(tmp_path: Path) -> None:
    write_run(tmp_path / "a", model="twistnet18", top1=0.4)
    write_run(tmp_path / "b", model="resnet18", top1=0.5)
    write_run(tmp_path / "c", model="resnet18", top1=0.6, epochs=50)
    table = only(tmp_path)

    def chosen(name: str | None) -> str | None:
        row = tables.choose_baseline(table, name)
        return row.label if row else None

    assert chosen(None) == "resnet18 (100 epochs)"
    assert chosen("twistnet18") == "twistnet18 (100 epochs)"
    assert chosen("resnet18 (50 epochs)") == "resnet18 (50 epochs)"
    assert chosen("swin") is None
    with pytest.raises(InputError, match=r"--baseline resnet18 has several rows on dtd: name one of 'resnet18 \(100"):
        chosen("resnet18")


def test_the_first_row_is_the_baseline_without_a_resnet(tmp_path: Path) -> None:
    table = only(write_sweep(tmp_path, {"b": {(1, 0): 0.7}, "a": {(1, 0): 0.8}}))
    row = tables.choose_baseline(table, None)
    assert row is table.rows[0]
    assert row.label == "b"


def test_a_single_run_has_no_spread_no_test_and_no_nan(tmp_path: Path) -> None:
    table = only(write_run(tmp_path / "a").parent)
    lines = lines_of(table)
    written = [
        tables.as_text(lines),
        tables.as_markdown(lines),
        tables.as_latex(lines),
        tables.as_csv([(table, lines)]),
    ]
    for text in written:
        assert not re.search(r"nan|inf|None", text, re.IGNORECASE)
        assert "±" not in text
        assert r"\pm" not in text
    assert "baseline" not in written[0]
    assert len(tables.notes(table, lines)) == 1
    (record,) = csv.DictReader(io.StringIO(written[3]))
    assert record["top1_mean"] == "0.5"
    assert record["top1_std"] == record["t"] == record["wilcoxon_holm"] == ""


def test_csv_has_full_precision(table: Table) -> None:
    lines = lines_of(table)
    first, second = csv.DictReader(io.StringIO(tables.as_csv([(table, lines)])))
    assert (first["label"], first["is_baseline"], second["is_baseline"]) == ("resnet18", "True", "False")
    for record, line in ((first, lines[0]), (second, lines[1])):
        assert float(record["top1_mean"]) == line.top1.mean
        assert float(record["balanced_std_seeds"]) == line.balanced.std_seeds
        assert (record["folds"], record["seeds"], record["runs"]) == ("3", "2", "6")
    (expected,) = compare([TWIST], RESNET, 1.0)
    assert expected is not None
    assert float(second["t"]) == expected.t
    assert (second["pairs"], second["compared_folds"], second["wilcoxon_holm"]) == ("6", "3", "")


def latex_cells(row: str) -> list[str]:
    """A row as LaTeX reads it: escaped characters are text, bare ones are syntax; each cell's braces must close."""
    assert row.endswith(r" \\")
    cells = re.split(r"(?<!\\)&", row.removesuffix(r" \\"))
    for cell in cells:
        bare = re.sub(r"\\textbackslash\{\}|\\textasciitilde\{\}|\\textasciicircum\{\}|\\pm|\\[&%$#_{}]", "", cell)
        bare = re.sub(r"\\textbf\{([^{}]*)\}", r"\1", bare)
        assert not re.search(r"[\\&%#_{}~^]", bare), cell
        assert bare.count("$") % 2 == 0, cell
    return [cell.strip() for cell in cells]


def test_latex_is_well_formed_whatever_the_names(tmp_path: Path) -> None:
    table = only(write_sweep(tmp_path, {"resnet18": RESNET}))
    write_run(tmp_path / "hostile", model=HOSTILE, fold=1, seed=0, top1=0.7)
    table = only(tmp_path)
    begin, top, head, middle, *rows, bottom, end = tables.as_latex(lines_of(table)).splitlines()
    columns = len(latex_cells(head))
    assert begin == rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}"
    assert (top, middle, bottom, end) == (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
    assert [len(latex_cells(row)) for row in rows] == [columns] * 2
    assert latex_cells(rows[1])[0] == (
        r"a\_b|c\&d\%e\$f\#g\{h\}\textasciitilde{}i\textasciicircum{}j\textbackslash{}k*l<m>"
    )
    assert latex_cells(rows[0])[2] == r"60.50 $\pm$ 1.87"
    assert latex_cells(rows[1])[2] == r"\textbf{70.00}", "the best"


def markdown_cells(row: str) -> list[str]:
    """A row as GitHub reads it."""
    first, *cells, last = re.split(r"(?<!\\)\|", row)
    assert first == last == ""
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells]


def test_markdown_is_well_formed_whatever_the_names(tmp_path: Path) -> None:
    write_sweep(tmp_path, {"resnet18": RESNET})
    write_run(tmp_path / "hostile", model=HOSTILE, fold=1, seed=0, top1=0.7)
    head, ruler, *rows = (markdown_cells(row) for row in tables.as_markdown(lines_of(only(tmp_path))).splitlines())
    assert {len(row) for row in (head, ruler, *rows)} == {len(head)}
    assert ruler == ["---", *["---:"] * (len(head) - 1)]
    assert [row[0] for row in rows] == ["resnet18", HOSTILE]
    assert [row[2] for row in rows] == ["60.50 ± 1.87", "**70.00**"]
    assert rows[1][-3:] == ["+10.00", "-", "-"], "one pair has no test"


def test_the_notes_tell_what_was_tested(table: Table) -> None:
    said = tables.notes(table, lines_of(table))[-1]
    assert said.startswith("Compared with resnet18: t: paired over folds, of which each is the mean of its seeds")
    assert "test / train = 1)" in said
    assert "no Wilcoxon test of twistnet18 (3 folds), for fewer than 6 never come to a p below 0.05" in said
    assert "Holm" not in said, "one comparison needs no correction"


def test_a_t_that_is_not_defined_is_told(tmp_path: Path) -> None:
    other = {pair: value + 0.125 for pair, value in RESNET.items()}
    table = only(write_sweep(tmp_path, {"resnet18": RESNET, "twistnet18": other}))
    assert "no t-test of twistnet18, whose differences are all the same" in tables.notes(table, lines_of(table))[-1]


def test_a_single_fold_is_told_to_be_one(tmp_path: Path) -> None:
    seeds = [(1, seed) for seed in range(6)]
    others = {
        "a": {pair: 0.61 + 0.01 * place for place, pair in enumerate(seeds)},
        "b": {pair: 0.63 - 0.01 * place for place, pair in enumerate(seeds)},
        "c": {(1, 0): 0.7},
    }
    table = only(write_sweep(tmp_path, {"resnet18": dict.fromkeys(seeds, 0.6), **others}))
    said = tables.notes(table, lines_of(table))[-1]
    assert "tests of b, a: paired over seeds on a single fold, which says nothing of other splits" in said
    assert "Nadeau" not in said, "there is no other fold to overlap with"
    assert "no t-test of c, for it takes two folds, or two seeds on a single one" in said
    assert "no Wilcoxon test of c (1 pair)" in said
    assert said.endswith("p after Holm's correction for 2 t-tests and 2 Wilcoxon tests.")


def test_fewer_pairs_than_runs_are_told(tmp_path: Path) -> None:
    fewer = {pair: value for pair, value in RESNET.items() if pair != (1, 0)}
    text = tables.as_text(lines_of(only(write_sweep(tmp_path, {"resnet18": fewer, "twistnet18": TWIST}))))
    assert "(5 pairs)" in text
    assert "3 x 2 (of them 5)" in text


def test_one_pair_is_one(tmp_path: Path) -> None:
    text = tables.as_text(lines_of(only(write_sweep(tmp_path, {"resnet18": {(1, 0): 0.6}, "twistnet18": TWIST}))))
    assert "(1 pair)" in text


def test_small_models_have_three_digits(tmp_path: Path) -> None:
    table = only(write_run(tmp_path / "a", parameters=12_340).parent)
    for flops, said in ((1_819_066_368, "1.82"), (11_600_000_000, "11.60"), (1_234_000, "0.00123"), (0, "0.00")):
        lines = tables.lines_of(table, None, lambda _, flops=flops: flops)
        titles, _, cells = (re.split(r"  +", line.strip()) for line in tables.as_text(lines).splitlines())
        shown = dict(zip(titles, cells, strict=True))
        assert (shown["FLOPs (G)"], shown["params (M)"]) == (said, "0.0123")


def test_a_model_is_counted_by_its_layers() -> None:
    found = cost("resnet18", size=224, num_classes=47)
    model = timm.create_model("resnet18", num_classes=47)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.multiply_adds == pytest.approx(1.82e9, rel=0.01), "timm's figure"
    with pytest.raises(InputError, match="twistnet19"):
        cost("twistnet19")
