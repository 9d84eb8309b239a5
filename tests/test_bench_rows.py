"""Rows that cannot be written, or be read again: what is said, and what stays as it was."""

from __future__ import annotations

import csv
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benches import bench
from conversions import sentence

from bench import everything as bench_everything
from bench import readme as bench_readme
from bench import rows
from bench.ratios import table
from bench.reading import read_rows
from bench.timing import Rate
from loaders import InputError

Capture = pytest.CaptureFixture[str]
CPU = torch.device("cpu")
MEASURED = {
    "first_s": 0.5,
    "cpu_share": 0.25,
    "memory_bytes": 3 << 20,
}


pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("results")


COMPARED = {"set": "500 px .beton", "data": "photographs_of_packages", "batch": 128, "size": 224}


def add(name: str = "x") -> Path:
    """Two rows of a loader and its peer."""
    rates = {"native": Rate.of([20.0, 22.0], **MEASURED), "FFCV": Rate.of([10.0, 11.0], **MEASURED)}
    return rows.append_rates(name, rates, COMPARED, CPU)


# --- reading ----------------------------------------------------------------------------------------------------------


def torn(data: bytes) -> bytes:
    return data[: data.rindex(b",") - 40]


def without_its_end(data: bytes) -> bytes:
    return data.rstrip(b"\r\n")


def a_word_for_a_number(data: bytes) -> bytes:
    return data.replace(b",10.5,", b",fast,")


def not_finite(data: bytes) -> bytes:
    return data.replace(b",10.5,", b",nan,")


def a_word_among_rounds(data: bytes) -> bytes:
    return data.replace(b"10.0 11.0", b"10.0 x")


def an_open_quote(data: bytes) -> bytes:
    return data.replace(b",FFCV,", b',"FFCV,')


def random_bytes(data: bytes) -> bytes:
    return data.replace(b",FFCV,", b",\xff\xfe\x00\x81,")


def a_foreign_header(_: bytes) -> bytes:
    return b"epoch,loss\n1,2\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (torn, r"line 3 has \d+ cells of 21, remove the line"),
        (without_its_end, "line 3 has no end, as if its writing had been cut short, remove the line"),
        (a_word_for_a_number, "line 3 has 'fast' as images_per_s, which is no number, remove the line"),
        (not_finite, "line 3 has 'nan' as images_per_s, which is no number, remove the line"),
        (a_word_among_rounds, "line 3 has 'x' as rounds, which is no number, remove the line"),
        (an_open_quote, r"line 3 is torn \(unexpected end of data\), remove the line"),
        (random_bytes, "line 3 holds bytes that are no text, remove the line"),
        (a_foreign_header, "line 1 has no column date, which every row of the bench has, move the file away"),
    ],
)
def test_a_damaged_file_of_rows_is_named_with_its_line(
    damage: Callable[[bytes], bytes], said: str, results: Path, capsys: Capture
) -> None:
    path = add()
    (damaged := results / "damaged.csv").write_bytes(damage(path.read_bytes()))
    message = f"^{damaged} cannot be read as rows: {said}\\.$"
    with pytest.raises(InputError, match=message):
        read_rows()
    with pytest.raises(InputError, match=message):
        read_rows(str(damaged))
    for command in (["plan"], ["report"], ["compare", str(damaged), str(path)], ["compare", "2026", "x"]):
        assert bench(*command) == 1
        assert f"{damaged} cannot be read as rows: line " in sentence(capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "it is no JSON of a report"),
        ("[1, 2]", "it is no JSON of a report"),
        ('{"rows": [1]}', "it is no JSON of a report"),
        ('{"rows": [{"bench": "x"}]}', "row 1 has no date, write the report anew"),
    ],
)
def test_a_damaged_report_is_one_sentence(content: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "report.json").write_text(content)
    assert bench("report", f"--run={tmp_path / 'report.json'}") == 1
    assert said in sentence(capsys)


def test_a_cell_of_a_report_that_is_no_number_is_named(tmp_path: Path) -> None:
    (row, _) = read_rows(str(add()))
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"rows": [{"bench": "x", **row.columns, "low": "slow"}]}))
    with pytest.raises(InputError, match="row 1 has 'slow' as low, which is no number"):
        read_rows(str(path))


def test_a_file_that_is_not_there_is_one_plain_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert bench("compare", str(tmp_path / "none.csv"), "x") == 1
    assert sentence(capsys) == (
        f"error: {tmp_path / 'none.csv'} cannot be read as rows (No such file or directory): name a CSV or JSON of the "
        "bench."
    )


def test_files_without_a_rate_are_no_rows_to_draw(capsys: Capture) -> None:
    path = rows.append_rows("learning", [dict.fromkeys(("date", "commit", "model", "options", "versions"), "")])
    assert bench("report", f"--run={path}") == 1
    assert "has no row with images a second" in sentence(capsys)
    assert bench("report", "--run=20200101T000000") == 1
    assert "give one of the runs (none yet), or a file" in sentence(capsys)


def test_the_rows_of_this_repository_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", rows.COMMITTED)
    assert len(read_rows()) > 400
    assert len(read_rows(str(rows.COMMITTED / "report.json"))) > 50


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_was_not_measured_is_no_zero(results: Path) -> None:
    rows.append_rates("x", {"all": Rate.of([1.0], card_bytes=1 << 20, **MEASURED), "none": Rate.of([1.0])}, {}, CPU)
    columns = ("first_batch_s", "cpu_share", "memory_mib", "card_mib")
    with (results / "x.csv").open() as file:
        found = [[row[column] for column in columns] for row in csv.DictReader(file)]
    assert found == [["0.5", "0.25", "3", "1"], ["", "", "", ""]]
    assert [row.number("memory_mib") for row in read_rows()] == [3, 0]


def test_the_readmes_table_says_what_was_not_measured() -> None:
    rows.append_rates(
        "loaders",
        {"native": Rate.of([20.0], **MEASURED), "FFCV": Rate.of([10.0])},
        COMPARED,
        CPU,
    )
    assert table(read_rows())[2].endswith("| 0.5 s, not measured | 3 MiB, not measured |")


@pytest.mark.parametrize("command", ["all", "storage", "decode", "upload", "augment", "step", "stages", "learning"])
def test_results_that_are_a_file_are_refused_before_anything_is_measured(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "file" / "below")
    assert bench(command, *([f"--photographs={tmp_path}"] if command == "learning" else [])) == 1
    assert sentence(capsys) == (
        f"error: rows go to a folder, and {tmp_path / 'file'} is a file: set TWISTNET_BENCH_RESULTS to another path."
    )


def test_no_row_goes_on_in_a_torn_one(capsys: Capture) -> None:
    path = add("upload")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert bench("upload", "--device=cpu") == 1
    assert f"the last line of {path} has no end" in sentence(capsys)
    with pytest.raises(InputError, match="has no end"):
        add("upload")
    assert path.read_bytes() == whole[:-9]


@pytest.mark.parametrize("before", [0, 1])
def test_on_a_full_disk_rows_are_printed_and_the_file_stays_as_it_was(
    before: int, results: Path, capsys: Capture
) -> None:
    for _ in range(before):
        add()
    path = results / "x.csv"
    there = path.read_bytes() if before else b""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(there) + 100, limits[1]))
    try:
        with pytest.raises(InputError, match=f"{path} cannot be written .*, its rows are printed: free space") as told:
            add()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    said = capsys.readouterr().out
    assert [row["what"] for row in csv.DictReader(said.splitlines()[1:])] == ["native", "FFCV"]
    assert (path.read_bytes() if before else os.listdir(results)) == (there or [])


def test_rows_of_other_columns_are_printed_too(results: Path, capsys: Capture) -> None:
    results.mkdir()
    (results / "x.csv").write_text("date,what\n2026-01-01,old\n")
    with pytest.raises(InputError, match="other columns"):
        add()
    assert ",native,21.0," in capsys.readouterr().out


def test_an_empty_file_gets_its_first_line(results: Path) -> None:
    results.mkdir()
    (results / "x.csv").write_text("")
    add()
    assert len(read_rows()) == 2


def test_only_the_repositorys_rows_are_to_be_committed() -> None:
    assert rows.added(Path("elsewhere/x.csv")) == "Rows added to elsewhere/x.csv."
    assert rows.added(rows.COMMITTED / "x.csv").endswith("x.csv: commit them.")


# --- all of it, and the README ----------------------------------------------------------------------------------------


def test_all_writes_how_long_it_took(
    tree: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(bench_everything, "run", lambda options, _: ran.append(tuple(options)))
    monkeypatch.setattr(bench_everything, "read_rows", lambda _: [])
    monkeypatch.setattr(bench_everything, "write_report", lambda *_: [])
    clock = iter((100.0, 160.5))
    monkeypatch.setattr(bench_everything.time, "perf_counter", lambda: next(clock, 160.5))
    bench_everything.everything(data_dir=tree, workers=2)
    with (results / "all.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["what"], row["seconds"], row["benches"]) == ("all", "60.5", str(len(ran[0])))
    assert f"data={tree.name} size=224 batch=32 workers=2 rounds=5 seconds=0.5" in row["options"]
    assert row["run"] == rows.RUN
    assert "All of it took 1.0 min." in capsys.readouterr().out
    with pytest.raises(InputError, match="has no rows"):
        read_rows()  # which are those with a rate


def test_all_leaves_a_report_out_that_cannot_be_drawn(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench_everything, "run", lambda *_: None)
    bench_everything.everything(data_dir=tree, workers=2)
    assert "Left out: the report, whose pictures need matplotlib" in capsys.readouterr().out


def test_all_lets_the_loaders_leave_out_what_is_missing(tree: Path) -> None:
    """A set that is asked for by name is not left out."""
    options = bench_everything._options(tree, (), ("a", "b"), 32, 8, 1, 1, 0.1)
    assert "sets" not in options["loaders"]
    assert bench_everything._options(tree, ("x", "y"), ("a", "b"), 32, 8, 1, 1, 0.1)["loaders"]["sets"] == "x,y"


def test_a_smoke_run_with_an_empty_report_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("")
    monkeypatch.setattr(bench_everything, "run", lambda *_: None)
    monkeypatch.setattr(bench_everything, "write_report", lambda *_: [tmp_path / "report.html"])
    with pytest.raises(InputError, match=r"the report's report\.html is empty"):
        bench_everything.smoke()


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """Copies of the documents with tables, and their texts."""
    texts = {}
    for file, _ in bench_readme.TABLES.values():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text((bench_readme.DOCUMENTS / file).read_text())
        texts[path] = path.read_text()
    monkeypatch.setattr(bench_readme, "DOCUMENTS", tmp_path)
    return texts


def unchanged(documents: dict[Path, str]) -> bool:
    return len(documents) == 2 and all(path.read_text() == text for path, text in documents.items())


def test_tables_are_not_written_from_rows_of_a_trial(documents: dict[Path, str], capsys: Capture) -> None:
    add("loaders")
    assert bench("readme") == 1
    assert "TWISTNET_BENCH_RESULTS names" in sentence(capsys)
    assert unchanged(documents)


def test_tables_lose_no_lines(
    documents: dict[Path, str], results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(rows, "COMMITTED", results)
    add("loaders")
    assert bench("readme") == 1
    assert "the rows make 3 lines of the table ratios, which has 13: bring back the rows" in sentence(capsys)
    assert unchanged(documents)


def test_tables_are_those_of_the_rows(documents: dict[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", rows.COMMITTED)
    assert bench("readme") == 0
    assert unchanged(documents)
