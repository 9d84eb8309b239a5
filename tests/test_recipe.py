"""Recipes: the guide's to the letter, the others printed and stored whole, and nonsense refused."""

from __future__ import annotations

import json

import pytest

from loaders import InputError
from twistnet import recipes
from twistnet.commands.show import show
from twistnet.recipe import from_dict
from twistnet.recipes import named

# The configuration that the pretraining guide prints, as it prints it.
GUIDE = {
    "epochs": 600,
    "batch_size": 256,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "warmup_epochs": 5,
    "label_smoothing": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "policy": "randaugment-n2-m9",
    "size": 224,
}


def test_the_guides_recipe_is_the_guides() -> None:
    assert {key: named("guide").to_dict()[key] for key in GUIDE} == GUIDE


def test_the_rate_is_scaled_by_the_total_batch() -> None:
    guide = named("guide")
    assert guide.peak_lr(1) == pytest.approx(0.1)
    assert guide.peak_lr(4) == pytest.approx(0.4)
    assert guide.with_changes(batch_size=128).peak_lr(8) == pytest.approx(0.4)
    assert guide.with_changes(accumulate=2).peak_lr(4) == pytest.approx(0.8)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_recipes_survive_json(name: str) -> None:
    assert from_dict(json.loads(json.dumps(named(name).to_dict()))) == named(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": -4}, "batch_size -4"),
        ({"lr": -0.1}, "lr -0.1"),
        ({"label_smoothing": 1.0}, "label_smoothing 1.0"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs 5 leaves nothing of 5 epochs"),
        ({"warmup_epochs": 600}, "warmup_epochs 600 leaves nothing of 600 epochs"),
        ({"mixup_alpha": -1.0, "cutmix_alpha": -2.0}, "mixup_alpha -1.0"),
        ({"shuffle": "none"}, "one class after the other"),
        ({"clip_grad": 0.0}, "clip_grad 0.0"),
        ({"size": 16}, "size 16"),
        ({"policy": "randaugment-m31"}, "31"),
        ({"policy": "autoaugment"}, "'autoaugment' is unknown: choose none, or begin with one of randaugment"),
        ({"mixup_alpha": -1.0}, "-1"),
        ({"scale_min": 1.5}, "1.5"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"interpolation": "nearest"}, "'nearest'"),
        ({"shuffle": "quasi"}, "'quasi'"),
        ({"seed": -1}, "seed -1"),
        ({"epoch": 3}, "did you mean epochs"),
    ],
)
def test_impossible_values_and_unknown_keys_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        named("guide").with_changes(**changes)


def test_unknown_names_and_missing_keys_are_refused() -> None:
    with pytest.raises(InputError, match="'a9' is unknown"):
        named("a9")
    with pytest.raises(InputError, match="lacks epochs"):
        from_dict({"name": "x", "batch_size": 8, "lr": 0.1})


def test_show_prints_a_recipe_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    show(recipe="guide", world_size=8)
    printed = json.loads(capsys.readouterr().out)
    assert printed["recipe"] == named("guide").to_dict()
    assert printed["on 8 processes"] == {"total_batch": 2048, "peak_lr": pytest.approx(0.8)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "90"),
        ("epochs", 6.5),
        ("epochs", True),
        ("lr", float("nan")),
        ("lr", "0.1"),
        ("amp", 1),
        ("model", 18),
    ],
)
def test_values_of_another_type_are_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{key} {value!r} is impossible"):
        from_dict(named("guide").to_dict() | {key: value})


def test_show_refuses_an_impossible_number_of_processes() -> None:
    with pytest.raises(InputError, match="--world_size -3"):
        show(world_size=-3)


def test_fewer_epochs_shorten_a_warm_up_that_is_not_named() -> None:
    assert named("guide").with_changes(epochs=3).warmup_epochs == 2
    assert named("guide").with_changes(epochs=1).warmup_epochs == 0
    assert named("guide").with_changes(epochs=90).warmup_epochs == 5
