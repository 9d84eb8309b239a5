"""Arguments are refused in a sentence or converted by their annotation, whatever they look like."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import fire
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twistnet.arguments import UsageError, bind, parameters_of, parse

CALLS: list[dict[str, Any]] = []
NEEDED = ["--data_dir", "d", "--dataset", "dtd"]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def train(
    *,
    data_dir: Path,
    dataset: str,
    epochs: int = 600,
    batch_size: int = 256,
    lr: float = 0.1,
    amp: bool = False,
    compile: bool | None = None,
    folds: tuple[int, ...] = (1,),
    seeds: list[int] | None = None,
    models: tuple[str, ...] = ("twistnet18",),
    tag: str = "",
    recipe: Literal["guide", "a1", "a2"] = "guide",
    workers: int | Literal["auto"] = "auto",
    resume: Path | None = None,
    clip: float | None = 1.0,
) -> None:
    """Trains."""


def convert(action: Literal["prepare", "check"], folder: Path = Path("data"), *rest: str, force: bool = False) -> int:
    """Converts."""
    CALLS.append(dict(locals()))
    return 3


def given_values(*argv: str) -> dict[str, Any]:
    values = parse(train, [*NEEDED, *argv])
    return {name: value for name, value in values.items() if name not in ("data_dir", "dataset")}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--epochs", "3"], {"epochs": 3}),
        (["--epochs=3"], {"epochs": 3}),
        (["--batch-size", "64"], {"batch_size": 64}),
        (["--batch_size=1_024"], {"batch_size": 1024}),
        (["--epochs", "007"], {"epochs": 7}),
        (["--epochs", "-1"], {"epochs": -1}),
        (["--lr", "-1"], {"lr": -1.0}),
        (["--lr", "-1e-3"], {"lr": -0.001}),
        (["--lr", "-.5"], {"lr": -0.5}),
        (["--lr", "5e-3"], {"lr": 0.005}),
        (["--clip", "none"], {"clip": None}),
        (["--amp"], {"amp": True}),
        (["--amp", "--epochs", "3"], {"amp": True, "epochs": 3}),
        (["--amp", "false"], {"amp": False}),
        (["--amp=false"], {"amp": False}),
        (["--amp=False"], {"amp": False}),
        (["--amp=0"], {"amp": False}),
        (["--amp=no"], {"amp": False}),
        (["--amp=off"], {"amp": False}),
        (["--amp", "on"], {"amp": True}),
        (["--amp=1"], {"amp": True}),
        (["--no-amp"], {"amp": False}),
        (["--no_amp"], {"amp": False}),
        (["--no-compile"], {"compile": False}),
        (["--compile"], {"compile": True}),
        (["--folds", "1-10"], {"folds": tuple(range(1, 11))}),
        (["--folds", "1-3,7"], {"folds": (1, 2, 3, 7)}),
        (["--folds", "5"], {"folds": (5,)}),
        (["--folds", "-1,2"], {"folds": (-1, 2)}),
        (["--seeds", "42,43,44"], {"seeds": [42, 43, 44]}),
        (["--models", "resnet18,twistnet18"], {"models": ("resnet18", "twistnet18")}),
        (["--models", "1-3"], {"models": ("1-3",)}),
        (["--tag", "007"], {"tag": "007"}),
        (["--tag", "exp#1"], {"tag": "exp#1"}),
        (["--tag", "1-10"], {"tag": "1-10"}),
        (["--tag", "none"], {"tag": "none"}),
        (["--tag", "True"], {"tag": "True"}),
        (["--tag", "[1, 2]"], {"tag": "[1, 2]"}),
        (["--tag", "-"], {"tag": "-"}),
        (["--tag="], {"tag": ""}),
        (["--tag=--lr=3"], {"tag": "--lr=3"}),
        (["--recipe", "a1"], {"recipe": "a1"}),
        (["--workers", "auto"], {"workers": "auto"}),
        (["--workers", "8"], {"workers": 8}),
        (["--resume", "none"], {"resume": Path("none")}),
        (["--resume=~/latest.pt"], {"resume": Path("~/latest.pt").expanduser()}),
    ],
)
def test_values_follow_the_annotation(argv: list[str], expected: dict[str, Any]) -> None:
    values = given_values(*argv)
    assert values == expected
    assert [type(value) for value in values.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "3"], "unknown flag --epoch: did you mean --epochs?"),
        (["--batch-sise=3"], "unknown flag --batch-sise: did you mean --batch_size?"),
        (["--no-amq"], "unknown flag --no-amq: did you mean --no_amp?"),
        (["--no-epochs"], "unknown flag --no-epochs: did you mean --epochs?"),
        (["-lr", "3"], "unknown flag -lr: did you mean --lr?"),
        (["--EPOCHS", "3"], "unknown flag --EPOCHS: did you mean --epochs?"),
        (["--zzz"], "unknown flag --zzz"),
        (["--helpp"], "unknown flag --helpp: did you mean --help?"),
        (["--epochs", "1", "--epochs=2"], "--epochs is given twice: leave one"),
        (["--batch-size", "1", "--batch_size", "1"], "--batch_size is given twice: leave one"),
        (["--amp", "--no-amp"], "--amp is given twice: leave one"),
        (["3"], "'3' belongs to no flag: write --flag 3"),
        (["--epochs", "3", "4"], "'4' belongs to no flag: write --flag 4"),
        (["--", "x"], "'x' belongs to no flag: write --flag x"),
        (
            ["--seeds", "42", "43"],
            "'43' stands alone: --seeds takes a list with commas and without spaces, such as 1,2,3",
        ),
        (["--amp", "maybe"], "--amp is true or false, not 'maybe'"),
        (["--amp=maybe"], "--amp 'maybe' is not true or false"),
        (["--amp="], "--amp '' is not true or false"),
        (["--no-amp=true"], "--no-amp takes no value: write --no-amp or --amp=true"),
        (["--no-amp", "true"], "--amp is true or false, not 'true'"),
        (["--epochs"], "--epochs needs a value, INT"),
        (["--epochs", "--amp"], "--epochs needs a value, INT"),
        (["--tag", "-x"], "--tag needs a value, TEXT: one that begins with a hyphen is written --tag=-x"),
        (["--epochs", "1e5"], "--epochs '1e5' is not a whole number: write 100000"),
        (["--epochs", "256.0"], "--epochs '256.0' is not a whole number: write 256"),
        (["--epochs", "2.5"], "--epochs '2.5' is not a whole number"),
        (["--epochs", "inf"], "--epochs 'inf' is not a whole number"),
        (["--epochs", "0x10"], "--epochs '0x10' is not a whole number"),
        (["--epochs", "1\n2"], "--epochs '1\\n2' is not a whole number"),
        (["--lr", "inf"], "--lr 'inf' is not a finite number"),
        (["--lr", "-inf"], "--lr '-inf' is not a finite number"),
        (["--lr", "nan"], "--lr 'nan' is not a finite number"),
        (["--lr", "1e999"], "--lr '1e999' is not a finite number"),
        (["--lr", "fast"], "--lr 'fast' is not a number"),
        (["--folds", "10-1"], "--folds '10-1' runs from 10 down to 1: write 1-10"),
        (["--folds", "1-999999999"], "--folds '1-999999999' has more than 100,000 elements"),
        (["--folds", "1,,2"], "--folds '1,,2' has an empty element: write a list with commas and without spaces"),
        (["--folds", "1,x"], "--folds '1,x' has the element 'x', which is not a whole number"),
        (["--recipe", "gide"], "--recipe 'gide' is not guide, a1 or a2: did you mean guide?"),
        (["--workers", "x"], "--workers 'x' is not a whole number and is not auto"),
        (["--resume="], "--resume '' is empty: name a file or folder"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_a_sentence(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(train, [*NEEDED, *argv])
    assert str(refused.value) == message


def test_all_missing_arguments_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"^missing --data_dir and --dataset$"):
        parse(train, [])
    with pytest.raises(UsageError, match=r"^missing ACTION$"):
        parse(convert, ["--force"])


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["check"], {"action": "check", "rest": ()}),
        (["check", "there"], {"action": "check", "folder": Path("there"), "rest": ()}),
        (["--action", "check", "--folder=there"], {"action": "check", "folder": Path("there"), "rest": ()}),
        (["--force", "check"], {"force": True, "action": "check", "rest": ()}),
        (
            ["check", "--", "train", "--epoch", "3", "--", "-h"],
            {"action": "check", "rest": ("train", "--epoch", "3", "--", "-h")},
        ),
    ],
)
def test_words_fill_the_parameters_before_the_star(argv: list[str], expected: dict[str, Any]) -> None:
    assert parse(convert, argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["chek"], "ACTION 'chek' is not prepare or check: did you mean check?"),
        (["check", "a", "b"], "'b' has no place here: what goes to REST follows --, so write -- b"),
        (["check", "a", "b", "--unknown"], "'b' has no place here: what goes to REST follows --, so write -- b"),
        (["check", "--action", "check"], "ACTION is given twice: leave one"),
    ],
)
def test_words_without_a_place_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(convert, argv)
    assert str(refused.value) == message


def several(images: tuple[Path, ...], *, sizes: tuple[int, ...] = (), top: int = 5) -> None:
    """A command that takes words, as many as come."""


@pytest.mark.parametrize(
    ("argv", "images"),
    [
        (["a.jpg"], ["a.jpg"]),
        (["a.jpg", "b c.jpg", "--top", "3", "dog/"], ["a.jpg", "b c.jpg", "dog"]),
        (["with,comma.jpg", "b.jpg"], ["with,comma.jpg", "b.jpg"]),
        (["--images", "a.jpg,b.jpg"], ["a.jpg", "b.jpg"]),
        (["--top=3", "--", "-a.jpg", "b.jpg"], ["-a.jpg", "b.jpg"]),
    ],
)
def test_a_word_that_takes_a_list_takes_all_words(argv: list[str], images: list[str]) -> None:
    assert parse(several, argv)["images"] == tuple(map(Path, images))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--top=3"], "missing IMAGES"),
        (["a.jpg", ""], "IMAGES '' is empty: name a file or folder"),
        (["a.jpg", "--images", "b.jpg"], "IMAGES is given twice: leave one"),
    ],
)
def test_a_list_of_words_is_checked_too(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(several, argv)
    assert str(refused.value) == message


def test_defaults_of_the_signature_apply_when_rest_is_given() -> None:
    bind(convert, parse(convert, ["check", "--", "a"]))()
    assert CALLS == [{"action": "check", "folder": Path("data"), "rest": ("a",), "force": False}]


@pytest.mark.parametrize(
    "argv",
    [
        ["--epochs", "3", "--lr=0.5", "--tag", "007"],
        ["--batch_size", "64", "--recipe", "a2", "--tag=exp#1"],
        ["--lr", "-1", "--epochs", "-2"],
        ["--tag", "-", "--resume", "checkpoints/latest.pt"],
    ],
)
def test_what_argparse_takes_has_the_same_values_here(argv: list[str]) -> None:
    reference = argparse.ArgumentParser(allow_abbrev=False)
    converters: dict[str, Callable[[str], Any]] = {"epochs": int, "batch_size": int, "lr": float, "resume": Path}
    for name in ("epochs", "batch_size", "lr", "resume", "tag", "recipe"):
        reference.add_argument(f"--{name}", type=converters.get(name, str), default=argparse.SUPPRESS)
    assert given_values(*argv) == vars(reference.parse_args(argv))


def test_what_fire_alone_does_and_this_does_not() -> None:
    """The reason for `arguments`: should fire change one of these, look again at what is still needed."""

    def job(epochs: int = 1, tag: str = "", amp: bool = True) -> None:
        CALLS.append({"epochs": epochs, "tag": tag, "amp": amp})

    with pytest.raises(SystemExit):
        fire.Fire(job, command=["--epoch=3"])
    assert CALLS == [{"epochs": 1, "tag": "", "amp": True}], "it ran, and only then found the flag"
    fire.Fire(job, command=["--tag", "007x", "--amp=false", "--epochs", "1-10"])
    assert CALLS[1] == {"epochs": "1-10", "tag": "007x", "amp": "false"}
    assert bool(CALLS[1]["amp"]) is True


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_text_arrives_as_it_was_given(text: str) -> None:
    assert given_values(f"--tag={text}") == {"tag": text}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                ["--", "-", "--amp", "--no-amp", "--lr", "--folds", "--folds=", "1-3", "--epochs=1e400", "-1"]
            ),
        ),
        max_size=6,
    )
)
def test_nothing_but_a_usage_error_comes_of_any_arguments(argv: list[str]) -> None:
    message = "unset"
    try:
        assert set(parse(train, argv)) <= set(parameters_of(train))
    except UsageError as error:
        message = str(error)
    assert message
    assert "\n" not in message


def test_a_command_needs_annotations_that_say_what_to_convert_to() -> None:
    def bare(*, epochs=1) -> None: ...  # type: ignore[no-untyped-def]

    def odd(*, epochs: dict[str, int]) -> None: ...

    for function in (bare, odd):
        with pytest.raises(TypeError):
            parse(function, [])
