"""A step without a finite gradient leaves everything as it was, is told and can be replayed; too many end the run."""

from __future__ import annotations

import copy
import json
import re
import shlex
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import timm
import torch
from training import pretrain

import loaders
from bench.recorded import watched
from loaders import Batch, InputError
from twistnet.__main__ import main
from twistnet.distributed import World
from twistnet.recipes import named
from twistnet.replaying import bad_steps
from twistnet.reporting import spans
from twistnet.step import TrainStep

CPU = World(rank=0, world_size=1, device=torch.device("cpu"))
GUIDE = named("guide").with_changes(batch_size=8, size=32, eval_size=32, mix_group=4)
RECIPES = {
    "sgd": GUIDE,
    "adamw": GUIDE.with_changes(optimiser="adamw", nesterov=False),
    "lamb": named("a2").with_changes(batch_size=8, size=32, eval_size=32, repeats=1),
}


def batch_of(seed: int, *, broken: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(5, (8,), generator=generator)
    if broken:
        images[3, 1, 4, 5] = torch.inf
    return Batch(images, labels, labels, torch.ones(8), torch.ones(8, dtype=torch.bool), torch.arange(8))


def step_of(kind: str) -> TrainStep:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).to(memory_format=torch.channels_last)
    return TrainStep(model, RECIPES[kind], CPU)


def everything(step: TrainStep) -> dict[str, torch.Tensor]:
    found = {name: value for name, value in step.model.state_dict().items() if value.is_floating_point()}
    for place, state in step.optimiser.state_dict()["state"].items():
        found |= {f"{place} {name}": torch.as_tensor(value) for name, value in state.items()}
    # LAMB counts its steps in its groups.
    groups = step.optimiser.param_groups
    found |= {f"steps {place}": torch.as_tensor(group["step"]) for place, group in enumerate(groups) if "step" in group}
    return copy.deepcopy(found)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("place", [0, 2])
def test_a_skipped_step_changes_nothing(kind: str, place: int) -> None:
    with_it, without = step_of(kind), step_of(kind)
    losses: list[bool] = []
    for number in range(4):
        if number == place:
            before = everything(with_it)
            with_it(batch_of(99, broken=True), number, 0.05, lambda _, loss, __: losses.append(bool(loss.isfinite())))
            if with_it.optimiser.state_dict()["state"] and place:
                assert_same(everything(with_it), before)
        for step in (with_it, without):
            step(batch_of(number), number, 0.05, lambda *_: None)
    assert losses == [False]
    assert_same(everything(with_it), everything(without))
    assert all(value.isfinite().all() for value in with_it.model.state_dict().values())


def test_skipped_steps_are_counted() -> None:
    step = step_of("sgd")
    seen = []
    for number, broken in enumerate([False, True, False, True, True]):
        step(batch_of(number, broken=broken), number, 0.05, lambda *_: None)
        if number in (0, 2, 4):
            seen.append(tuple(step.skipping.read()))
    assert seen == [([], 0), ([1], 0), ([3, 4], 2)]
    step(batch_of(5, broken=True), 5, 0.05, lambda *_: None)
    assert tuple(step.skipping.read()) == ([5], 3), "a row ends no streak"


def test_a_streak_is_looked_at_every_limit_and_one_steps() -> None:
    step = step_of("sgd")
    exceeded = []
    for number in range(9):
        step(batch_of(number, broken=number in (1, 3, 4, 5, 6)), number, 0.05, lambda *_: None)
        exceeded.append(step.skipping.exceed(1, number + 1))
    assert [place for place, exceeds in enumerate(exceeded) if exceeds] == [5], "3 to 5; at 7 it has ended"
    assert step.skipping.read() == ([1, 3, 4, 5, 6], 0), "which reads nothing"


def broken(*steps: tuple[int, int]) -> AbstractContextManager[None]:
    """Batches of these steps, by epoch and place in it, have a number that is none."""

    def see(epoch: int, step: int, batch: Batch) -> None:
        if (epoch, step) in steps:
            batch.images[1] = torch.nan

    return watched(see)


def test_a_run_goes_on_and_says_which_step_it_was(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with broken((1, 1)):
        assert pretrain(tree, "--no_publish", "--log_every=1") == 0
    printed = capsys.readouterr().out
    run = tmp_path / "checkpoints"
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "steps"]
    skipped = [row for row in steps if "skipped" in row]
    assert [row["skipped"] for row in skipped] == [1]
    assert "loss" not in skipped[0]
    assert all("loss" in row for row in steps if row is not skipped[0])
    number = skipped[0]["step"]
    assert (
        f"1 step skipped, 1 so far: no finite gradient in step {number}; look into it with twistnet replay" in printed
    )
    (noted,) = (json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines())
    assert (noted["step"], noted["epoch"], noted["place"]) == (number, 2, 2), "all from 1"
    weights = torch.load(run / "test_resnet_imagenet.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in weights.values())

    assert main(["replay", "checkpoints", "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"Step {number}, {len(noted['ids'])} images, with the weights of checkpoints/" in printed
    assert "0 of 16 images have no finite loss" in printed, "this data set was sound; the loader was not"
    assert "may have diverged in the 1 step since.\nFirst try a lower --lr.\n" in printed
    assert (run / f"step-{number}.png").stat().st_size > 1000
    with broken((1, 1)):
        assert main(["replay", "checkpoints", f"--data_dir={tree}", "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert "The first output that is not finite is that of conv1" in printed
    store = loaders.open_store(tree, "train")
    assert f"loss       inf  {store.key(noted['ids'][1])}" in printed.replace("nan", "inf")


def test_too_many_in_a_row_end_the_run(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with broken(*((1, step) for step in range(4))):
        assert pretrain(tree, "--no_publish", "--log_every=1", "--max_skips=2") == 1
    message = capsys.readouterr().err
    assert (
        "3 steps in a row had no finite gradient, more than --max_skips 2: start a new run with a lower --lr" in message
    )
    assert "checkpoints/latest.pt is from before, and see twistnet replay checkpoints" in message
    kept = torch.load(tmp_path / "checkpoints/latest.pt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_what_is_told_to_be_called_works_before_the_first_checkpoint(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with broken((0, 0), (0, 1), (0, 2)):
        assert pretrain(tree, "--no_publish", "--max_skips=1", "--checkpoint_dir=of mine") == 1
    message = capsys.readouterr().err
    assert message.startswith("error: 2 steps in a row had no finite gradient, more than --max_skips 1: "), (
        "though a row of the log is due every 50 steps"
    )
    words = shlex.split(message.rstrip().removesuffix(".").partition(", and see twistnet ")[2])
    assert words == ["replay", "of mine"]
    state = torch.load("of mine/latest.pt", weights_only=True)
    assert (state["epoch"], state["step_in_epoch"]) == (0, 2)
    assert all(value.isfinite().all() for value in state["model"].values())
    assert main([*words, "--device=cpu"]) == 0
    assert "Step 2, 16 images, with the weights of of mine/latest.pt, 1 step after it." in capsys.readouterr().out


def test_the_step_nearest_to_known_weights_is_looked_into(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with broken((0, 2), (1, 1), (1, 2)):
        assert pretrain(tree, "--no_publish") == 0
    printed = capsys.readouterr().out
    assert "1 step skipped, 1 so far: no finite gradient in step 3; look into it with twistnet replay" in printed
    assert "2 steps skipped, 3 so far: no finite gradient in steps 6 to 7; look into it with twistnet replay" in printed
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["replay", "../checkpoints", "--device=cpu"]) == 0
    assert re.match(
        r"Step 6, 16 images, with the weights of \.\./checkpoints/(previous|best)\.pt, 1 step before it\.",
        capsys.readouterr().out,
    )
    assert main(["replay", "../checkpoints", "--device=cpu", "--step=3"]) == 0
    assert capsys.readouterr().out.startswith("Step 3, 16 images, ")
    assert main(["replay", "../checkpoints", "--step=5"]) == 1
    assert "step 5 is none of the skipped steps in ../checkpoints/bad_steps.jsonl: take 3, 6 to 7." in (
        capsys.readouterr().err
    )
    assert main(["replay", "../checkpoints", "--data_dir=nowhere"]) == 1
    assert "nowhere" in capsys.readouterr().err, "the flag counts"


def test_numbers_are_joined() -> None:
    assert spans([7]) == "7"
    assert spans([44, 45, 46, 3, 50, 45]) == "3, 44 to 46, 50"
    assert spans(range(1, 30, 2)) == "..., 15, 17, 19, 21, 23, 25, 27, 29"


def test_replaying_refuses(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"--data_dir={tree}"
    noted = {"step": 5, "epoch": 2, "place": 1, "ids": [1], "data_dir": str(tree), "stage": None}
    assert main(["replay", str(tmp_path), data]) == 1
    assert "holds no bad_steps.jsonl: no step of it was skipped" in capsys.readouterr().err
    path = tmp_path / "bad_steps.jsonl"
    path.write_text('{"step": 4, "epoch": 1, "place": 0, "ids": [1]}\n')
    assert main(["replay", str(tmp_path), data]) == 1
    assert "which no run writes: a line holds step, epoch, place, ids, data_dir, stage." in capsys.readouterr().err
    path.write_text(json.dumps(noted) + "\n")
    assert main(["replay", str(tmp_path), data, "--step=9"]) == 1
    assert f"step 9 is none of the skipped steps in {path}: take 5." in capsys.readouterr().err
    assert main(["replay", str(tmp_path), data]) == 1
    assert "holds no checkpoint that can be read" in capsys.readouterr().err


WHOLE = {"step": 5, "epoch": 2, "place": 1, "ids": [1], "data_dir": "set", "stage": None}


@pytest.mark.parametrize("line", ["[1]", "5", '{"a": 1}', "null", json.dumps({**WHOLE, "step": "4"})])
def test_a_line_that_no_run_writes_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad_steps.jsonl").write_text(json.dumps(WHOLE) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"bad_steps\.jsonl has a line '.*', which no run writes: a line holds step"):
        bad_steps(tmp_path, None)


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps(WHOLE) + "\n"
    (tmp_path / "bad_steps.jsonl").write_text(whole + whole[:20])
    assert bad_steps(tmp_path, None) == [WHOLE]
    (tmp_path / "bad_steps.jsonl").write_text(whole[:20])
    with pytest.raises(InputError, match=r"bad_steps\.jsonl holds no whole line"):
        bad_steps(tmp_path, None)
