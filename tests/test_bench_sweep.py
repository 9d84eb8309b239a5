"""A sweep of which a process is killed at a random moment comes to what an undisturbed one does."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.sweep import Outcome, swept
from bench.sweeping import Sweep, refuse_difference
from loaders import InputError

pytest_plugins = ("training",)

TINY = {
    **{"models": "test_resnet,test_vit", "folds": "1-2", "seeds": "42", "recipe": "demo_dtd", "weights": "none"},
    **{"epochs": "3", "size": "32", "batch_size": "16", "workers": "1"},
}


@pytest.fixture(scope="module")
def done(dtd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    root = tmp_path_factory.mktemp("swept")
    return swept(dtd, root, TINY, kills=1, seed=seed), root


def test_a_sweep_that_is_killed_at_random_ends_as_one_that_was_not(done: tuple[Outcome, Path]) -> None:
    found, root = done
    print(found)
    assert (found.runs, len(found.kills)) == (4, 1)
    assert 0 < found.kills[0] < found.shared_s
    assert found.resumed + found.repeated <= 1
    results = [json.loads(path.read_text()) for path in (root / "runs" / "undisturbed").rglob("result.json")]
    assert sorted((result["model"], result["fold"]) for result in results) == [
        (model, fold) for model in ("test_resnet", "test_vit") for fold in (1, 2)
    ]
    outside = 1 - sum(result["step_seconds"] for result in results) / found.undisturbed_s
    wasted = outside - sum(result["eval_seconds"] for result in results) / found.undisturbed_s
    row = found.row()
    assert row["outside_steps"] == pytest.approx(outside, abs=1e-3)
    assert row["outside_steps_and_evaluation"] == pytest.approx(wasted, abs=1e-3)
    assert row["overhead_s"] == pytest.approx(wasted * found.undisturbed_s / 4, abs=0.01)
    assert 0 < wasted < outside < 1


def spoil_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"best_epoch": 99, "seconds": 1e9}))


def spoil_prediction(run: Path) -> None:
    with np.load(run / "predictions.npz") as file:
        arrays = dict(file)
    arrays["predicted"][3] += 1
    np.savez(run / "predictions.npz", **arrays)


def spoil_time(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"seconds": 1e9}))


def leave_claim(run: Path) -> None:
    (run / "claim.json").write_text("{}")


def copied(done: tuple[Outcome, Path], folder: Path) -> tuple[Sweep, Sweep, Path]:
    """Both sweeps with nothing left to do, and the folder of the second's last run."""
    root = shutil.copytree(done[1] / "runs", folder / "runs")
    whole, shared = (Sweep(folder, root / name, TINY) for name in ("undisturbed", "shared"))
    return whole, shared, root / "shared" / "test_vit" / "fold02-seed42"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_result, "seed 1 the best_epoch of test_vit/fold02-seed42 is 99 and not [1-3]: look into resuming"),
        (spoil_prediction, "seed 1 the predicted of test_vit/fold02-seed42 in predictions.npz differ"),
        (shutil.rmtree, "seed 1 there is no result of test_vit/fold02-seed42 in both"),
        (leave_claim, "seed 1 claim.json is still there after the sweep's end"),
    ],
)
def test_the_first_difference_is_told(
    done: tuple[Outcome, Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    whole, shared, run = copied(done, tmp_path)
    spoil(run)
    with pytest.raises(InputError, match=message):
        refuse_difference(whole, shared, "seed 1")


def test_times_are_no_difference(done: tuple[Outcome, Path], tmp_path: Path) -> None:
    whole, shared, run = copied(done, tmp_path)
    spoil_time(run)
    refuse_difference(whole, shared, "seed 1")
