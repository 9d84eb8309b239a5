"""Options of a run: sizes that grow, values set by name, profiles, averages and mirror images in evaluation."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from loaders import InputError, open_loader
from loaders.augment import Augment
from twistnet import distributed
from twistnet.checkpoints import load_checkpoint
from twistnet.evaluate import evaluate
from twistnet.job import Job
from twistnet.loss import right_answers
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.recipes import NAMES, named, source
from twistnet.starting import settings
from twistnet.step import TrainStep
from twistnet.train import train

pytest_plugins = ("training",)
from training import finetune, pretrain  # noqa: E402


def rows_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


# --- progressive size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ramp"), [("fast16", (11, 13)), ("fast32", (23, 27)), ("fast88", (65, 76))])
def test_sizes_grow_as_ffcvs_do(name: str, ramp: tuple[int, int]) -> None:
    """Between the epochs that rn18_configs give: in a line, to the nearest multiple of 32."""
    recipe = named(name)
    for epoch in range(recipe.epochs):
        share = min(max((epoch - ramp[0]) / (ramp[1] - ramp[0]), 0), 1)
        assert recipe.size_at(epoch) == round((160 + 32 * share) / 32) * 32
    assert (recipe.size_at(ramp[0]), recipe.size_at(ramp[1])) == (160, 192)


def test_a_shorter_run_and_smaller_images_keep_the_ramp() -> None:
    short = named("fast16").with_changes(epochs=8)
    assert [short.size_at(epoch) for epoch in range(8)] == [160] * 6 + [192, 192]
    small = named("fast16").with_changes(size=64)
    assert {small.size_at(epoch) for epoch in range(16)} == {64}
    assert {named("guide").size_at(epoch) for epoch in (0, 599)} == {224}


def test_training_sees_the_sizes(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    step_ = TrainStep.__call__

    def noted(step: TrainStep, batch: Any, number: int, *rest: Any) -> None:
        seen.append((number, batch.images.shape[-1]))
        step_(step, batch, number, *rest)

    monkeypatch.setattr(TrainStep, "__call__", noted)
    more = "--set=start_size=32,ramp_start=0.3,ramp_end=0.6,eval_size=48"
    flags = (f"--checkpoint_dir={tmp_path / 'run'}", "--no_publish", "--epochs=3", "--size=96", more)
    assert pretrain(tree, *flags) == 0
    assert [size for _, size in seen] == [32] * 4 + [32] * 4 + [96] * 4
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["eval_size"] == 48
    (start,) = rows_of(tmp_path / "run", "start")
    assert start["recipe"]["ramp_end"] == 0.6, "the log says it too"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_size": 256}, "start_size 256"),
        ({"start_size": 16}, "start_size 16"),
        ({"start_size": 64, "ramp_start": 0.5, "ramp_end": 0.2}, "ramp_start 0.5 and ramp_end 0.2"),
        ({"ramp_end": 1.5}, "ramp_end 1.5"),
        ({"schedule": "step"}, "schedule 'step' is unknown: choose one of cosine, linear"),
        ({"ema_decay": 1.0}, "ema_decay 1.0"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        named("guide").with_changes(**changes)


# --- --set ------------------------------------------------------------------------------------------------------------


def test_values_are_set_by_name_and_type() -> None:
    found = settings(("ema_decay=0.99", "flip_tta=yes", "clip_grad=2", "optimiser=adamw"), size=64, lr=None)
    assert found == {
        **{"ema_decay": 0.99, "flip_tta": True, "clip_grad": 2.0, "optimiser": "adamw"},
        **{"size": 64, "lr": None},
    }


def test_evaluation_keeps_to_the_size_where_it_had_it() -> None:
    assert named("guide").with_changes(size=64).eval_size == 64
    assert named("guide").with_changes(size=64, eval_size=96).eval_size == 96
    assert named("fast16").with_changes(size=192).eval_size == 256


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ema_decy=0.9", "--set ema_decy=0.9 names no value of a recipe: did you mean ema_decay?"),
        ("ema_decay", "--set ema_decay lacks its value: give --set ema_decay=VALUE."),
        ("name=mine", "--set name is the recipe's own: take --recipe."),
        ("clip_grad=none", "--set clip_grad: 'none' stands for no value, which only leaving it out does."),
        ("repeats=two", "--set repeats: 'two' is not a whole number."),
        ("lr=0.2", "--set lr=0.2 and lr 0.1 are both given: leave one out."),
    ],
)
def test_what_cannot_be_set_is_refused(given: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        settings((given,), lr=0.1)


@pytest.mark.usefixtures("run")
def test_a_resumed_run_refuses_another_value(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(tree, "--resume=checkpoints/latest.pt", "--set=ema_decay=0.5") == 1
    assert "ema_decay 0.5 differs from the 0.0 that" in capsys.readouterr().err


# --- averages, mirror images, profiles --------------------------------------------------------------------------------


def test_the_average_is_scored_kept_and_tested(dtd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert finetune(dtd, f"--run_dir={folder}", "--set=ema_decay=0.5,flip_tta=true", "--weights=none") == 0
    last = load_checkpoint(folder / "latest.pt")
    final = torch.load(folder / "test_resnet_dtd.pt", weights_only=True)
    assert all(torch.equal(final[name], value) for name, value in last["ema"].items())
    assert any(not torch.equal(final[name], value) for name, value in last["model"].items())
    best = load_checkpoint(folder / "best.pt")
    model = timm.create_model("test_resnet", num_classes=len(best["data"]["classes"])).eval()
    model.load_state_dict(best["ema"])
    recipe = named("demo_dtd").with_changes(size=32, eval_size=32)
    loader = open_loader(dtd, "test1", 16, train=False, size=32, augment=Augment(), crops=recipe.crops())
    with torch.no_grad():
        right = sum(
            float(right_answers(model(batch.images) + model(batch.images.flip(3)), batch)[0])
            for batch in loader.epoch(0)
        )
    loader.close()
    result = json.loads((folder / "result.json").read_text())
    assert result["test_top1"] == pytest.approx(right / result["test_samples"])


def test_mirror_images_do_not_matter_to_what_sees_none(tree: Path) -> None:
    """A model that looks at the left half alone: its logits are those of both halves then."""

    class LeftHalf(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[..., :16].mean((2, 3)) * 50

    loader = open_loader(tree, "val", 7, train=False, size=32, augment=Augment())
    with distributed.join("cpu") as world:
        precision = Precision.choose(world.device, amp=False)
        plain, both = (evaluate(LeftHalf(), loader, world, precision, flip_tta=flip) for flip in (False, True))
    total = 0.0
    for batch in loader.epoch(0):
        logits = (batch.images[..., :16].mean((2, 3)) + batch.images[..., 16:].mean((2, 3))) * 25
        losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        total += float((losses * batch.valid).sum())
    loader.close()
    assert both.loss == pytest.approx(total / both.samples, rel=1e-5)
    assert plain.loss != pytest.approx(both.loss, rel=1e-3)


def test_a_profile_names_the_costliest_kernels(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert pretrain(tree, f"--checkpoint_dir={folder}", "--no_publish", "--profile=2", "--model=twistnet18") == 0
    assert f"Profiled 2 steps: {folder / 'profile.txt'}" in capsys.readouterr().out
    table = (folder / "profile.txt").read_text()
    named_rows = [line for line in table.splitlines() if re.match(r"\s*(aten|twistnet|torch|autograd|Optimizer)", line)]
    assert len(named_rows) >= 6  # some may be a kernel's own, as mkldnn's
    assert "convolution" in table
    with gzip.open(folder / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::convolution_backward" for event in events) >= 2 * 20
    steps = {event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#3", "ProfilerStep#4"}, "the first three warm up"
    assert len(re.findall(r"^ +\S.*\d%", table, re.MULTILINE)) == 11, "ten kernels, and the step as a whole"
    assert pretrain(tree, f"--checkpoint_dir={tmp_path / 'other'}", "--profile=-1") == 1


def test_a_log_row_has_the_gradients_norm(run: Path) -> None:
    norms = [row["grad_norm"] for row in rows_of(run, "steps")]
    assert norms
    assert all(0 < norm < 100 for norm in norms)


# --- golden losses ----------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden_losses.json"
STEPS = 20
# Of the same start: other processors round otherwise, which grows from step to step.
FIRST, LATER = 1e-4, 0.05


def golden_recipe(name: str) -> Recipe:
    """The recipe on miniature images; `area` would want OpenCV."""
    small = {"size": 48, "eval_size": 48, "batch_size": 8, "mix_group": 4, "epochs": 4, "amp": False}
    recipe = named(name).with_changes(**small)
    recipe = recipe.with_changes(start_size=32) if recipe.start_size else recipe
    return recipe.with_changes(interpolation="bilinear") if recipe.interpolation == "area" else recipe


def losses_of(name: str, tree: Path, folder: Path) -> list[float]:
    with distributed.join("cpu") as world:
        job = Job(data_dir=tree, run_dir=folder, weights_name="final.pt", workers=1, log_every=1)
        train(job, golden_recipe(name), world)
    return [round(row["loss"], 6) for row in rows_of(folder, "steps")][:STEPS]


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_before(name: str, tree: Path, tmp_path: Path) -> None:
    """Twenty float32 steps of every recipe: whoever changes them on purpose writes them again, and says why.

    PYTHONPATH=. python tests/test_train_options.py
    """
    expected = json.loads(GOLDEN.read_text())[name]
    found = losses_of(name, tree, tmp_path / "run")
    assert len(found) == len(expected) == STEPS
    assert found[:3] == pytest.approx(expected[:3], rel=FIRST)
    assert found == pytest.approx(expected, rel=LATER)


def test_every_recipe_says_where_it_comes_from() -> None:
    for name in NAMES:
        assert len(source(name)) > 30
        assert source(name).endswith(".")


if __name__ == "__main__":
    import tempfile

    from conftest import write_tree

    with tempfile.TemporaryDirectory() as where:
        data = write_tree(Path(where) / "tree", {"train": 17, "val": 7})
        GOLDEN.write_text(
            json.dumps({name: losses_of(name, data, Path(where) / name) for name in NAMES}, indent=1) + "\n"
        )
