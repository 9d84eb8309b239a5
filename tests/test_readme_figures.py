"""Figures in the sentences of README and pages are those of the newest rows, which new rows would else leave behind."""

from __future__ import annotations

import csv
import re
import statistics

import pytest

from bench import parts, rows
from bench.reading import Row, newest, read_rows
from tests.documents import TEXT

DOCS = " ".join(TEXT.split())


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", rows.COMMITTED)


def by_name(bench: str, **options: str) -> dict[str, Row]:
    """The newest run's, of those from clean checkouts."""
    clean = [row for row in read_rows() if row.columns["dirty"] == "no"]
    return {row.what: row for row in newest(clean, bench, **options)}


def test_decoding_of_the_plan() -> None:
    native = by_name("decode", set="original", threads="1")["native"]
    assert f"({native.number('us_of_a_core'):.0f} microseconds an image of ImageNet's size" in DOCS
    megapixels = native.number("megapixels_per_s") / native.images_per_s
    assert f"({megapixels:.2f} megapixels and {float(native.options['kb']):.0f} kB in the mean)" in DOCS


@pytest.mark.parametrize(("model", "shown"), [("twistnet18", "TwistNet-18 at 224 px"), ("test_resnet", "timm's test_")])
def test_training_beside_its_simulation(model: str, shown: str) -> None:
    found = by_name("train", model=model)
    whole = found[parts.END_TO_END]
    form = ".1f" if model == "twistnet18" else ".0f"
    said = rf"{whole.number('simulated'):{form}}(?: img/s)? beside {whole.images_per_s:{form}} \({re.escape(shown)}"
    assert re.search(said, DOCS)
    if model == "twistnet18":
        assert f"it trains at {100 * whole.number('ratio'):.1f} % of its rate" in DOCS


def test_steps_beside_resnet18s() -> None:
    found = by_name("step")
    ours, theirs = (1 / found[f"step: {name}"].number("ratio") for name in ("twistnet18", "twistnet18_head_by_head"))
    blocks = [
        1 / by_name("step", stage=stage)["block: in few passes"].number("ratio") for stage in ("stage_3", "stage_4")
    ]
    assert f"| TwistNet-18 | {ours:.3f} | {blocks[0]:.2f} in stage 3, {blocks[1]:.2f} in stage 4 |" in DOCS
    assert f"head by head | {theirs:.3f} | 1 |" in DOCS


def test_augmentation() -> None:
    found = {what: f"{row.images_per_s:,.0f}" for what, row in by_name("augment", workers="2").items()}
    torchvision, timms = "torchvision v2, each image", found["RandAugment: ours, as timm's"]
    for line in (
        f"| RandAugment | {found['RandAugment: ours']} | torchvision v2 on each image "
        f"{found[f'RandAugment: {torchvision}']} |",
        f"| timm's RandAugment | {timms} | timm on each Pillow image {found['RandAugment: timm, each image']} |",
        f"| colour jitter, normalised | {found['jitter and normalise: ours']} | torchvision v2 on each image "
        f"{found[f'jitter and normalise: {torchvision}']} |",
    ):
        assert line in DOCS


def test_conversion_beside_ffcvs_writer() -> None:
    assert f"at {by_name('conversion', images='original')['original to shards'].number('ratio'):.2f} times" in DOCS
    smaller = by_name("conversion", images="max_side=400")["max_side=400 to shards"]
    assert f"at {smaller.number('ratio'):.2f} times the rate of FFCV's writer" in DOCS


def test_dali_behind_our_loader() -> None:
    found = by_name("loaders", set="shards")
    peer = found["DALI on the CPU"].rounds
    for name, said in (("dali", "`--decoder dali`, makes"), ("dali+native", "`dali+native`")):
        each = [ours / theirs for ours, theirs in zip(found[name].rounds, peer, strict=True)]
        assert f"{said} {statistics.median(each):.2f} times" in DOCS
        assert f"({min(each):.2f} to {max(each):.2f}" in DOCS


def test_loading_for_fine_tuning() -> None:
    for kind, what, name in (
        ("crop_and_flip", "kept, later epochs", "crop and flip, kept, from the second epoch on"),
        ("RandAugment", "kept, later epochs", "with RandAugment, kept, from the second epoch on"),
        ("crop_and_flip", "kept, first epoch", "crop and flip, kept, first epoch"),
        ("crop_and_flip", "decoded each time", "crop and flip, decoded each time"),
    ):
        found = by_name("finetuning", set=kind)
        ours, peer = found[what], found["Pillow, torchvision, DataLoader"]
        rates = f"{ours.images_per_s:,.0f} | {peer.images_per_s:,.0f} | {ours.number('ratio'):.2f} |"
        assert f"| {name} | {rates}" in DOCS


def test_transfer() -> None:
    with (rows.COMMITTED / "transfer.csv").open() as file:
        found = {(row["model"], row["start"]): row for row in csv.DictReader(file)}
    for model, shown in (("twistnet18", "TwistNet-18"), ("resnet18", "ResNet-18")):
        ours, scratch = found[model, "pretrained"], found[model, "scratch"]
        assert (ours["dirty"], ours["n"]) == ("no", "9")
        tests = " | ".join(f"{100 * float(row['test_top1']):.1f} %" for row in (ours, scratch))
        difference, spread = float(ours["difference"]), float(ours["difference_std_seeds"])
        assert f"| {shown} | {tests} | {100 * difference:.1f} ({100 * spread:.1f}) points |" in DOCS
        assert difference > 2 * spread


def test_a_killed_sweep() -> None:
    with (rows.COMMITTED / "sweep.csv").open() as file:
        of_recipe, tiny = list(csv.DictReader(file))[-2:]
    assert {of_recipe["dirty"], tiny["dirty"]} == {"no"}
    seconds = f"in {float(tiny['shared_s']):.0f} s beside {float(tiny['undisturbed_s']):.0f} ("
    assert f"{tiny['n']} runs by two processes, each of which was killed once" in DOCS
    assert seconds in DOCS
    beside = []
    for row in (tiny, of_recipe):
        share, run_s = 100 * float(row["outside_steps_and_evaluation"]), float(row["undisturbed_s"]) / int(row["n"])
        beside.append((f"{float(row['overhead_s']):.2f} s", f"{share:.1f} % of", f"{run_s:.1f} s"))
    (each, part, of), (its_each, its_part, its_of) = beside
    assert f"{each} a run, {part} these of {of}, and {its_each}, {its_part} the {its_of} that a run" in DOCS
    assert f"({of_recipe['n']} runs, `--folds 1-6 --seeds 42 --epochs 6 --size 64 --batch_size 16`; " in DOCS
    assert "folds=1-6 seeds=42 recipe=demo_dtd epochs=6 size=64 batch_size=16" in of_recipe["options"]
    assert f"{100 * float(of_recipe['outside_steps']):.1f} % with validation and tests)" in DOCS
