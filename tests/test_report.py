"""The whole suite: one run of it, its report, what it names as the bound where a stage is slow, and its plan."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from benches import bench
from PIL import Image
from throttles import THROTTLES

from bench import parts, rows
from bench import training as bench_training
from bench.figures import RED, figures
from bench.page import page
from bench.ratios import peers, table
from bench.reading import read_rows
from bench.timing import Rate
from loaders import InputError
from twistnet.__main__ import main

SLOW_S = 0.1  # a batch of 8; a step takes a tenth of it


pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("results")


def test_the_suite_works_and_keeps_nothing(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench("smoke") == 0
    said = capfd.readouterr().out
    assert "[7 of 7] train: " in said
    assert "The suite works here" in said
    assert not results.exists()


@pytest.mark.parametrize("stage", THROTTLES)
def test_a_slow_stage_is_named_by_bench_report_and_plan(
    stage: str, tree: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    THROTTLES[stage](monkeypatch, SLOW_S)
    bench_training.train(
        data_dir=tree, model="test_resnet", batch_size=8, size=32, rounds=1, seconds=0.3, device="cpu", compile="off"
    )
    assert f"bound by: {stage}.\n" in capsys.readouterr().out
    assert bench("report") == 0
    said = (results / "report.html").read_text()
    assert f"Bound by: {stage}." in said
    assert "  bound" in said, "the bar is marked"
    decode = ("decode", f"--data_dir={tree}", "--images=8", "--size=32", "--batch_size=8", "--rounds=1")
    assert bench(*decode, "--seconds=0.2") == 0
    capsys.readouterr()
    assert bench("plan", "--model=test_resnet") == 0
    originals = [line for line in capsys.readouterr().out.splitlines() if " original: " in line]
    assert len(originals) == 1
    assert f"bound by {stage}," in originals[0]


class _Reader(HTMLParser):
    """Counts tags, and what a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_a_report_needs_no_network_and_can_be_read_again(results: Path) -> None:
    import torch

    cpu, options = torch.device("cpu"), {"set": "tree", "data": "photographs_of_packages", "batch": 128, "size": 224}
    rates = {"native": Rate.of([20.0, 22.0, 21.0]), "torchvision v2 uint8": Rate.of([10.0, 11.0, 7.0])}
    rows.append_rates("loaders", rates, options, cpu)
    slower = {"native": Rate.of([1.0] * 3), "torchvision v2 uint8": Rate.of([10.0] * 3)}
    for other in ({"batch": 8}, {"size": 64}, {"data": "mine"}):  # of another question
        rows.append_rates("loaders", slower, options | other, cpu)
    decode = {"native": Rate.of([5.0]), "reference": Rate.of([3.0])}
    rows.append_rates("decode", decode, {"set": "original", "threads": 1}, cpu)
    (ratio,) = peers(read_rows())
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 3.0)
    assert "| 10 | 21 | 2.00 (2.00 to 3.00, 3) |" in table(read_rows())[2]
    assert bench("report") == 0
    reader = _Reader()
    reader.feed((results / "report.html").read_text())
    assert reader.tags.count("svg") == 2  # ratios and threads; no memory was measured
    assert all(each.startswith("#") for each in reader.fetched)
    said = (results / "report.html").read_text()
    assert not re.search(r"url\((?!#)|@import", said.replace("&quot;", "")), "clip paths of its own alone"
    for text in ("<h2>Environment</h2>", f'<td class="">torch</td><td class="">{torch.__version__.partition("+")[0]}'):
        assert text in said
    for axis in ("images a second", "times the peer's images a second", "threads"):
        assert f"{axis}</text>" in said
    assert Image.open(results / "report.png").width > 800
    again = read_rows(str(results / "report.json"))
    assert [row.columns | {"bench": row.bench} for row in again] == json.loads((results / "report.json").read_text())[
        "rows"
    ]
    with (results / "loaders.csv").open() as file:
        assert [row["images_per_s"] for row in csv.DictReader(file)] == ["21.0", "10.0", *["1.0", "10.0"] * 3]
    assert bench("compare", f"--a={results / 'report.json'}", f"--b={results / 'loaders.csv'}") == 0
    assert "<script" not in page([*read_rows()])


def test_a_report_says_what_other_runs_of_the_commit_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    for run_, name in (("20260101T000000", "upload"), ("20260102T000000", "decode")):
        monkeypatch.setattr(rows, "RUN", run_)
        rows.append_rates(name, {"native": Rate.of([1.0])}, {"set": "original", "threads": 1}, torch.device("cpu"))
    commit = read_rows()[0].columns["commit"]
    assert bench("report") == 0
    assert f"Rows of upload are of other runs of this commit: --run {commit} shows all." in capsys.readouterr().out
    assert bench("report", f"--run={commit}") == 0
    assert "other runs" not in capsys.readouterr().out


@pytest.mark.parametrize("bound", ["decode", "step", "upload"])
def test_the_bar_of_the_bound_is_the_one_that_is_marked(bound: str) -> None:
    import torch
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    names = [*parts.ALONE.values(), parts.LOADER, parts.END_TO_END]
    rates = {name: Rate.of([10.0 + place]) for place, name in enumerate(names)}
    extra = {name: {"bound_by": bound, "simulated": 9.5} for name in names}
    rows.append_rates("train", rates, {"model": "m", "size": 32, "batch": 8}, torch.device("cpu"), extra)
    said, draw = figures(read_rows())["What bounds training"]
    assert said.endswith(f"Bound by: {bound}.")
    axes = Figure().subplots()
    draw(axes)
    if bound != "upload":  # which is none on a CPU
        names.remove(parts.UPLOAD)
    place = names.index(parts.ALONE[bound])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    assert [index for index, bar in enumerate(axes.patches) if to_hex(bar.get_facecolor()).upper() == RED] == [place]
    marked = [text for text in axes.texts if "bound" in text.get_text()]
    assert [text.xy[1] for text in marked] == [place]
    assert axes.get_xlabel() == "images a second (logarithmic)"


def test_twistnet_bench_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "plan", "--cards=0"]) == 1
    assert "--cards 0 is too small" in capsys.readouterr().err
    assert main(["bench", "plam"]) == 2
    assert "twistnet bench: " in capsys.readouterr().err


def test_this_machines_plan_is_of_its_own_rows(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="has no rows"):
        read_rows()
    THROTTLES["decode"](monkeypatch, SLOW_S)
    bench_training.train(
        data_dir=tree, model="test_resnet", batch_size=8, size=32, rounds=1, seconds=0.3, device="cpu", compile="off"
    )
    assert bench("decode", f"--data_dir={tree}", "--images=8", "--size=32", "--batch_size=8", "--rounds=1") == 0
    capsys.readouterr()
    assert bench("plan", "--model=test_resnet") == 0
    said = capsys.readouterr().out
    assert "steps of the processors make " in said
    assert "(measured: train.csv, run " in said
    assert "bound by decode" in said
    assert bench("plan", "--model=test_resnet", "--fix") == 0
    advised = capsys.readouterr().out.splitlines()
    assert advised[1].startswith("twistnet pretrain --data_dir IMAGENET --model test_resnet --epochs 600 --size 32 ")
    assert bench("plan") == 1
    assert "no row of twistnet18 on this machine" in capsys.readouterr().err
