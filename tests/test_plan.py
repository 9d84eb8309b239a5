"""Projections: what bounds a machine is named, and the commands that are advised are real ones."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from bench import parts, rows
from bench.cards import load_of
from bench.commands import COMMANDS
from bench.costs import Cost
from bench.forms import advised, mixed
from bench.here import cost_of
from bench.levers import gains
from bench.planning import Form, Load, Machine, predict
from bench.published import Figure
from bench.reading import Row, read_rows
from bench.readme import TABLES, replaced
from bench.timing import Rate
from bench.training import simulated
from loaders import InputError
from tests.documents import PAGES
from twistnet.__main__ import main
from twistnet.arguments import parameters_of
from twistnet.cli import run
from twistnet.commands.convert import convert
from twistnet.commands.pretrain import pretrain

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


MANY = [
    FORM,
    Form(name="256 px", kb=20.0, decode=Cost(seconds=2e-4, core_s=2e-4), convert="", keeps_pixels=False),
    Form(name="raw 256 px", kb=120.0, decode=Cost(seconds=1e-4, core_s=1e-4), convert="", keeps_pixels=False),
]


@pytest.mark.parametrize(
    ("memory_gib", "share"),
    [(100.0, (0.6 * 100 * 2**30 / 1e3 / 1e6 - 20) / 100), (20.0, None), (500.0, None)],
)
def test_as_many_pixels_as_fit_are_mixed_in(memory_gib: float, share: float | None) -> None:
    found = mixed(MANY, Machine(**{**MACHINE, "memory_gib": memory_gib}), load_at(1000.0))  # type: ignore[arg-type]
    if share is None:  # not even the JPEGs fit, or all pixels do
        assert not found
        return
    (form,) = found
    assert form.name == f"256 px, {share:.0%} of them raw"
    assert form.kb == pytest.approx(20 + 100 * share)
    assert form.decode.core_s == pytest.approx((1 - share) * 2e-4 + share * 1e-4)
    assert f"--proportion {1 - share:.2f} " in form.convert, "that of JPEGs, as FFCV counts it"
    assert mixed(MANY[:2], Machine(**MACHINE), load_at(1000.0)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("machine", "rate", "expected"),
    [
        ({"nodes": 2}, 1000.0, {"a step twice as fast": 2.0, "images of 160 px": (224 / 160) ** 2}),
        ({}, 20_000.0, {"twice the cores": 2.0, "half the threads": 0.5}),
        ({"memory_gib": 16.0}, 20_000.0, {"twice the disk": 2.0}),
        ({"memory_gib": 120.0}, 20_000.0, {"twice the memory": 6.4, "twice the disk": 2.0}),
    ],
)
def test_changes_do_what_the_bound_lets_them(
    machine: dict[str, float], rate: float, expected: dict[str, float]
) -> None:
    found = gains(Machine(**{**MACHINE, **machine}), load_at(rate), FORM, [])  # type: ignore[arg-type]
    assert {name: gain for name, gain in found.items() if abs(gain - 1) > 0.1} == pytest.approx(expected, rel=0.05)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_slow_network_is_named_and_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    slow = Machine(**{**MACHINE, "nodes": 4, "network_gb_per_s": 0.05})  # type: ignore[arg-type]
    assert predict(slow, load_at(3000), FORM).bound == "all-reduce"
    found = gains(slow, load_at(3000), FORM, [])
    for name in ("twice the network", "gradients in bfloat16 (--set compress_gradients=true)", "twice the batch"):
        assert found[name] == pytest.approx(2.0, rel=0.1)
    flags = ["plan", "--card=A100", "--cards=8", "--nodes=4", "--network=0.05"]
    assert run(flags, COMMANDS, "python -m bench") == 0
    assert "% in all-reduce; " in capsys.readouterr().out


def test_validation_waits_for_data_too() -> None:
    """Its steps take a third of the time, and no longer hide the decoding that training's do."""
    machine = Machine(**{**MACHINE, "cores": 10.0})  # type: ignore[arg-type]
    load = dataclasses.replace(load_at(1000.0), val_images=100_000)
    found = predict(machine, load, FORM)
    assert found.bound == "step"
    assert found.epoch_s == pytest.approx(1_000_000 / 8000 + 100_000 / 10_000, rel=0.05)


def test_cheaper_forms_are_faster_where_processors_train() -> None:
    """By what their decoding takes of the cores, and not by what that of the form did that was trained on."""
    machine = Machine(**{**MACHINE, "card": "", "cards": 1, "cores": 2.0})  # type: ignore[arg-type]
    load = dataclasses.replace(
        load_at(1000.0), batch_size=64, step_core_s=2e-3, in_company={"decode": 0.9, "step": 0.8}
    )
    heavy, light = (dataclasses.replace(FORM, decode=Cost(seconds=core_s, core_s=core_s)) for core_s in (1e-3, 1e-4))
    rates = [predict(machine, load, form).images_per_s for form in (heavy, light)]
    assert rates[0] < 1 / (1e-3 / 2 + 1 / 1000.0)
    assert 0.85 * 1000 < rates[1] < 1 / (1e-4 / 2 + 1 / 1000.0) * 1.01


def test_the_ratio_of_models_is_of_full_size_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    import torch

    for date, size, batch, mine in (("1", 224, 32, 9.0), ("2", 64, 32, 5.0), ("3", 224, 8, 5.0)):
        monkeypatch.setattr(rows, "RUN", date)
        rates = {"step: twistnet18": Rate.of([mine] * 3), "step: resnet18": Rate.of([10.0] * 3)}
        options = {"batch": batch, "size": size, "precision": "float32"}
        rows.append_rates("step", rates, options, torch.device("cpu"))
    load = load_of("A100", 1, read_rows(), 256, 224)
    assert load.step.value == pytest.approx(0.9 * 2470 * 3482 / 1218)
    assert load.step.kind == "projected"
    assert "twistnet18 at 0.900 of it (cpu, float32, batch 32, n=3: measured there, projected to a card)" in (
        load.step.source
    )
    assert load_of("A100", 8, read_rows(), 256, 224).step.value == pytest.approx(0.9 * 16_621 / 8 * 3482 / 1218)
    assert load_of("A100", 1, read_rows(), 256, 112).step.value == pytest.approx(4 * load.step.value)
    assert load_of("H200", 8, [], 256, 224, "resnet50").step.value == pytest.approx(63_500 / 8)
    with pytest.raises(InputError, match="model 'resnet19' is unknown to timm"):
        load_of("A100", 1, read_rows(), 256, 224, "resnet19")


def test_the_advised_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--card=A100", "--cards=8", "--cores=16", "--fix"], COMMANDS, "python -m bench") == 0
    converting, training, caution = capsys.readouterr().out.splitlines()
    assert "256 px: photographs have about 213 px on their shorter side" in caution
    for line, function in ((converting, convert), (training, pretrain)):
        flags = re.findall(r"--(\w+)", line.partition("-m twistnet")[2] or line)
        assert set(flags) <= set(parameters_of(function))
    assert "max_side=256" in converting, "two cores for a card do not decode larger images"
    assert "--workers 2" in training
    assert "--epochs 600 " in training
    assert shlex.split(training)[:2] == ["torchrun", "--nproc_per_node=8"]
    assert run(["plan", "--card=A100", "--cards=8", "--nodes=4", "--fix"], COMMANDS, "python -m bench") == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[1])
    assert words[:2] == ["twistnet", "launch"]
    assert main([*words[1:], "--dry_run"] if "--" not in words else [*words[1:8], "--dry_run", *words[8:]]) == 0
    assert "#SBATCH --nodes=4" in capsys.readouterr().out


def test_a_plan_says_what_kind_its_figures_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--card=RTX 3090", "--cards=1", "--price=0.5"], COMMANDS, "python -m bench") == 0
    said = capsys.readouterr().out
    assert "published" in said
    assert "measured" in said
    assert all("(projected)" in line or "Assumed" in line for line in said.splitlines()[1:])
    days = float(re.findall(r"600 epochs ([0-9.]+) days", said)[0])
    cost = float(re.findall(r"at a cost of ([0-9]+)", said)[0])
    assert cost == pytest.approx(days * 24 * 0.5, rel=0.05)
    assert run(["plan", "--card=a100", "--cards=65"], COMMANDS, "python -m bench") == 1
    assert "--cards 65 are no node's: take at most 64" in capsys.readouterr().err
    assert run(["plan", "--cards=8"], COMMANDS, "python -m bench") == 1
    assert "--cards 8 are not this machine's" in capsys.readouterr().err
    assert run(["plan", "--card=RTX3090"], COMMANDS, "python -m bench") == 1
    assert "--card RTX3090 is unknown: did you mean RTX 3090?" in capsys.readouterr().err
    assert run(["plan", "--cards=0"], COMMANDS, "python -m bench") == 1
    assert "--cards 0 is too small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "verdict"),
    [([], "are met"), (["--disk=10", "--memory=16"], "are missed"), (["--nodes=2"], None), (["--size=160"], None)],
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
    assert "decode.csv has no row of the native decoder: run python -m bench decode first." in capsys.readouterr().err


def test_tables_are_those_of_the_rows() -> None:
    for name, (file, lines_of) in TABLES.items():
        assert replaced(PAGES[file], name, lines_of(read_rows())) == PAGES[file], name


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
