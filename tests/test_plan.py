"""Projections: what bounds a machine is named, and the commands that are advised are real ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bench import parts, rows
from bench.commands import COMMANDS
from bench.costs import Cost
from bench.here import cost_of
from bench.plan import advised
from bench.planning import Form, Load, Machine, predict
from bench.published import Figure
from bench.reading import Row, read_rows
from bench.readme import TABLES, replaced
from bench.timing import Rate
from bench.training import simulated
from twistnet.arguments import parameters_of
from twistnet.cli import run
from twistnet.commands.convert import convert
from twistnet.commands.pretrain import pretrain

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
MACHINE = {
    **{"card": "A100", "cards": 8, "nodes": 1, "cores": 64.0, "memory_gib": 512.0, "disk_mb_per_s": 1000.0},
    **{"link_gb_per_s": 12.0, "fabric_gb_per_s": 100.0, "network_gb_per_s": 12.5},
}
FORM = Form(name="f", kb=100.0, decode=Cost(seconds=1e-3, core_s=1e-3), convert="", keeps_pixels=True)


def load_at(rate: float, images: int = 1_000_000) -> Load:
    step = Figure(value=rate, kind="projected", source="")
    return Load(
        step=step, step_core_s=0, augment=None, batch_size=256, size=224, gradient_mb=46, images=images, val_images=0
    )


@pytest.mark.parametrize(
    ("change", "rate", "bound", "expected"),
    [
        ({}, 1000.0, "step", 8 * 1000.0),
        ({}, 20_000.0, "decode", 64 * 1000.0),
        ({"memory_gib": 16.0}, 20_000.0, "read", 1000e6 / 100e3),
        ({"cores": 6400.0, "link_gb_per_s": 0.1}, 20_000.0, "upload", 8 * 0.1e9 / (3 * 224**2)),
    ],
)
def test_the_bound_of_a_machine_is_named(change: dict[str, float], rate: float, bound: str, expected: float) -> None:
    found = predict(Machine(**{**MACHINE, **change}), load_at(rate), FORM)  # type: ignore[arg-type]
    assert found.bound == bound
    assert found.images_per_s == pytest.approx(expected, rel=0.05)
    assert found.epoch_s == pytest.approx(1_000_000 / found.images_per_s)
    assert found.days(600) == pytest.approx(600 * found.epoch_s / 86_400)


def test_nodes_exchange_gradients_over_their_network() -> None:
    fast, slow = (
        predict(Machine(**{**MACHINE, "nodes": 4, "network_gb_per_s": rate}), load_at(3000), FORM)  # type: ignore[arg-type]
        for rate in (100.0, 0.5)
    )
    assert fast.images_per_s == pytest.approx(32 * 3000, rel=0.05)
    moved_s = 2 * 31 / 32 * 46e6 / 0.5e9  # a ring's, of which all cards of a node share the network
    assert slow.images_per_s == pytest.approx(32 * 256 / (256 / 3000 + moved_s), rel=0.05)


def test_pixels_are_given_up_for_speed_only() -> None:
    machine = Machine(**{**MACHINE, "cores": 8.0})  # type: ignore[arg-type]
    small = Form(name="small", kb=50.0, decode=Cost(seconds=1e-4, core_s=1e-4), convert="", keeps_pixels=False)
    for rate, best in ((500.0, FORM), (5000.0, small)):
        found = [(form, predict(machine, load_at(rate), form)) for form in (FORM, small)]
        assert advised(found) is best


def test_the_advised_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--card=A100", "--cards=8", "--cores=16", "--fix"], COMMANDS, "python -m bench") == 0
    converting, training = capsys.readouterr().out.splitlines()
    for line, function in ((converting, convert), (training, pretrain)):
        flags = re.findall(r"--(\w+)", line.partition("-m twistnet")[2] or line)
        assert set(flags) <= set(parameters_of(function))
    assert "max_side=256" in converting, "two cores for a card do not decode larger images"
    assert "--workers 2" in training
    assert shlex.split(training)[:2] == ["torchrun", "--nproc_per_node=8"]


def test_a_plan_says_what_kind_its_figures_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--card=RTX 3090", "--cards=1", "--price=0.5"], COMMANDS, "python -m bench") == 0
    said = capsys.readouterr().out
    assert "published" in said
    assert "measured" in said
    assert all("(projected)" in line for line in said.splitlines()[1:])
    assert run(["plan", "--card=RTX3090"], COMMANDS, "python -m bench") == 1
    assert "--card RTX3090 is unknown: did you mean RTX 3090?" in capsys.readouterr().err
    assert run(["plan", "--cards=0"], COMMANDS, "python -m bench") == 1
    assert "--cards 0 is too small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "verdict"), [([], "are met"), (["--disk=10", "--memory=16"], "are missed"), (["--nodes=2"], None)]
)
def test_a_plan_says_whether_the_guides_days_are_met(
    more: list[str], verdict: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--card=A100", "--cards=8", *more], COMMANDS, "python -m bench") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "The guide's" in line]
    if verdict is None:  # its table has no such machine
        assert not lines
        return
    assert [line.split(": ")[0] for line in lines] == [
        f"The guide's 600 epochs in 1.5 days (published) {verdict}",
        f"The guide's 300 epochs in 1.0 days (published) {verdict}",
    ]


def test_without_rows_a_plan_says_what_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    import torch

    rows.append_rates("x", {"a": Rate.of([1.0])}, {}, torch.device("cpu"))
    assert run(["plan", "--card=A100"], COMMANDS, "python -m bench") == 1
    assert (
        "step.csv has no row of twistnet18 beside resnet18: run python -m bench step first." in capsys.readouterr().err
    )


def test_the_readmes_tables_are_those_of_the_rows() -> None:
    for name, lines_of in TABLES.items():
        assert replaced(README, name, lines_of(read_rows())) == README, name


def test_simulations_are_within_a_tenth_of_what_was_measured() -> None:
    """Of every committed training that was measured with what steps and decoding do to each other on the same cores."""
    trained: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in read_rows():
        if row.bench == "train":
            trained.setdefault((row.columns["run"], row.columns["options"]), {})[row.what] = row
    complete = [found for found in trained.values() if {parts.DECODE_BESIDE, parts.END_TO_END} <= found.keys()]
    assert complete
    for found in complete:
        whole = found[parts.END_TO_END]
        costs = {name: cost_of(row) for name, row in found.items()}
        batch_size, cores = int(whole.options["batch"]), int(whole.columns["cores"])
        outcome = simulated(costs, batch_size, on_card=whole.columns["device"] != "cpu", cores=cores)
        assert batch_size * outcome.batches_per_s == pytest.approx(whole.images_per_s, rel=0.1), whole.options
        assert outcome.bound == whole.columns["bound_by"]
