"""The command line: every argument is checked before anything runs, converted by annotation, and help never pages."""

from __future__ import annotations

import errno
import inspect
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import fire
import pytest
from fire.console import console_io

from launch.ranks import Ranks
from launch.version import VERSION
from loaders.errors import InputError
from twistnet.__main__ import main
from twistnet.arguments import parameters_of
from twistnet.cli import WIDTH, help_text, overview, run
from twistnet.commands import COMMANDS, Command

ROOT = Path(__file__).resolve().parent.parent
CALLS: list[dict[str, Any]] = []
FAILURE: list[BaseException] = []


def train(
    *,
    data_dir: Path,
    dataset: str,
    epochs: int = 600,
    lr: float = 0.1,
    amp: bool = False,
    folds: tuple[int, ...] = (1,),
    recipe: Literal["guide", "a1", "a2"] = "guide",
    workers: int | Literal["auto"] = "auto",
    resume: Path | None = None,
) -> None:
    """Trains a model.

    From a tree or a converted folder: both are alike.

        twistnet train --data_dir imagenet

    Args:
        data_dir: the data set, as extracted or converted, which makes this description longer than
            a line, note: with a colon in its second line.
        dataset: its name.
        epochs: passes over the training images.
    """
    CALLS.append(dict(locals()))
    if FAILURE:
        raise FAILURE[0]


def convert(action: Literal["prepare", "check"], folder: Path = Path("data"), *rest: str, force: bool = False) -> int:
    """Converts.

    Args:
        action: what to do.
        folder: where.
        rest: passed on.
        force: overwrite.
    """
    CALLS.append(dict(locals()))
    return 3


TABLE = {
    "train": Command(f"{__name__}:train", "Trains a model"),
    "convert": Command(f"{__name__}:convert", "Converts a data set"),
}
NEEDED = ["--data_dir", "d", "--dataset", "dtd"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    FAILURE.clear()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TWISTNET_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("wrong", [["--epoch", "3"], ["--lr", "x"], ["stray"], ["--amp=maybe"], ["--epochs"]])
def test_nothing_starts_before_all_arguments_are_accepted(wrong: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *NEEDED, *wrong], TABLE) == 2
    assert CALLS == []
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("twistnet train: ")
    assert err.endswith(" See twistnet train --help.\n")
    assert err.count("\n") == 1
    assert run(["train", *NEEDED], TABLE) == 0
    assert len(CALLS) == 1


def test_a_commands_number_is_the_exit_code_and_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "check"], TABLE) == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        ([], 2, "usage: twistnet COMMAND"),
        (["trian"], 2, "twistnet: unknown command trian: did you mean train? See twistnet --help.\n"),
        ([""], 2, "twistnet: unknown command ''. See twistnet --help.\n"),
        (["--epochs", "3"], 2, "twistnet: --epochs stands before the command"),
    ],
)
def test_without_a_command(argv: Sequence[str], code: int, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(argv, TABLE) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(expected)


@pytest.mark.parametrize(
    "argv", [["train", "--help"], ["convert", "check", "--help"], ["train", "--epoch", "3", "-h"], ["--help"], ["-h"]]
)
def test_help_anywhere_prints_and_ends_well(
    argv: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr(console_io, "More", lambda text, **_: paged.append(text))
    assert run(argv, TABLE) == 0
    out, err = capfd.readouterr()
    assert out.startswith("usage: twistnet")
    assert (err, CALLS, paged) == ("", [], [])
    with pytest.raises(SystemExit):
        fire.Fire(train, command=["--", "--help"])
    assert paged, "fire's own help goes to the pager"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], TABLE) == 0
    assert capfd.readouterr().out == f"twistnet {VERSION}\n"


def test_help_says_type_default_and_description() -> None:
    text = help_text("twistnet train", train)
    assert text.startswith(
        "usage: twistnet train --data_dir PATH --dataset TEXT [--flag VALUE ...]\n\nTrains a model.\n"
    )
    assert "\n    twistnet train --data_dir imagenet\n" in text
    joined = " ".join(text.split())
    assert "longer than a line, note: with a colon in its second line. (required)" in joined
    for part in (
        "--epochs INT passes over the training images. (default: 600)",
        "--amp, --no_amp (default: false)",
        "--folds INT,... (default: 1)",
        "--recipe guide|a1|a2 (default: guide)",
        "--workers INT|auto (default: auto)",
    ):
        assert part in joined
    assert "usage: twistnet convert ACTION [FOLDER] [--flag VALUE ...] [-- REST ...]" in help_text(
        "twistnet convert", convert
    )
    assert max(map(len, [*text.splitlines(), *overview(TABLE).splitlines()])) <= WIDTH


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_parsed_and_is_documented(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    function = getattr(__import__(module, fromlist=[attribute]), attribute)
    text = help_text(f"twistnet {name}", function)
    assert max(map(len, text.splitlines())) <= WIDTH
    documented = inspect.getdoc(function) or ""
    assert [item for item in parameters_of(function) if f"    {item}: " not in documented] == []


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (InputError("fold 11 is above 10: choose 1 to 10."), "fold 11 is above 10: choose 1 to 10."),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.pt"), "x.pt does not exist: check the path."),
        (
            PermissionError(errno.EACCES, "Permission denied", "x.pt"),
            "x.pt may not be used by this user: change its permissions or choose another path.",
        ),
        (
            OSError(errno.ENOSPC, "No space left", "x.pt"),
            "no space is left on the device for x.pt: free some or write elsewhere.",
        ),
        (
            FileExistsError(errno.EEXIST, "File exists", "x"),
            "x cannot be a folder, a file stands there or above it: choose another path.",
        ),
        (
            ModuleNotFoundError("No module named 'matplotlib.figure'", name="matplotlib.figure"),
            "this needs matplotlib, which is not installed: pip install 'twistnet[plots]'.",
        ),
        (OSError("two\nlines"), "two lines"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
    ],
)
@pytest.mark.parametrize("rank", [0, 3])
def test_errors_of_a_running_command_are_one_sentence(
    failure: BaseException, sentence: str, rank: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FAILURE.append(failure)
    for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, str(value))
    assert run(["train", *NEEDED], TABLE) == 1
    assert capfd.readouterr() == ("", f"{'[rank 3] ' if rank else ''}error: {sentence}\n")
    monkeypatch.setenv("TWISTNET_TRACEBACK", "1")
    assert run(["train", *NEEDED], TABLE) == 1
    assert "Traceback" in capfd.readouterr().err


def test_an_interrupt_is_one_line_and_a_defect_is_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    FAILURE.append(KeyboardInterrupt())
    assert run(["train", *NEEDED], TABLE) == 130
    assert capfd.readouterr().err == "twistnet train: interrupted.\n"
    for defect in (ZeroDivisionError(), ModuleNotFoundError("No module named 'twistnet.nothing'", name="twistnet")):
        FAILURE[0] = defect
        with pytest.raises(type(defect)):
            run(["train", *NEEDED], TABLE)


def test_a_package_that_a_command_cannot_be_imported_without_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("skimage", "skimage.data", "bench.augment"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert run(["augment"], {"augment": Command("bench.augment:augment", "")}) == 1
    assert capfd.readouterr().err == (
        "error: this needs scikit-image, which is not installed: pip install 'twistnet[demo]'.\n"
    )


def test_the_benches_say_what_they_are_about(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    said = capfd.readouterr().out
    assert "What bounds a run" in said.splitlines()[2]
    assert "ImageNet as downloaded" not in said
    assert main(["--help"]) == 0
    assert "ImageNet as downloaded" in capfd.readouterr().out.splitlines()[2]


@pytest.mark.parametrize("argv", [["train"], ["train", "--help"], ["--help"], [], ["trian"]])
def test_only_rank_0_prints_usage_errors_and_help(
    argv: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, printed = [], []
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        codes.append(run(argv, TABLE))
        printed.append("".join(capfd.readouterr()))
    assert codes == [codes[0]] * 3
    assert printed[0]
    assert printed[1:] == ["", ""]
    assert len(waited) == (0 if codes[0] == 0 else 2)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Ranks(rank=0, world_size=1, local_rank=0)),
        ({"WORLD_SIZE": "1"}, Ranks()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Ranks(rank=5, world_size=8, local_rank=1)),
        ({"RANK": "8", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, "RANK is 8 with WORLD_SIZE 8"),
        ({"RANK": "-1", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, "RANK is -1"),
        ({"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "8"}, "LOCAL_RANK is 8"),
        ({"WORLD_SIZE": "4"}, "RANK and LOCAL_RANK are not set"),
        ({"RANK": "1", "WORLD_SIZE": "4"}, "LOCAL_RANK is not set"),
        ({"RANK": "1"}, "RANK is 1 with WORLD_SIZE 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        ({"RANK": "a"}, "RANK is 'a'"),
    ],
)
def test_ranks(environ: dict[str, str], expected: Ranks | str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    if isinstance(expected, Ranks):
        assert Ranks.from_env(environ) == expected
        return
    with pytest.raises(ValueError, match=expected):
        Ranks.from_env(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(["train", *NEEDED], TABLE) == 1
    assert expected in capfd.readouterr().err


def _python(*argv: str, stdout: int = subprocess.PIPE, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "twistnet", *argv],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_terminal_gets_help_without_a_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ntouch {tmp_path}/paged\ncat\n")
    pager.chmod(0o755)
    terminal, stdout = pty.openpty()
    process = _python("doctor", "--help", stdout=stdout, PAGER=str(pager), TERM="xterm")
    os.close(stdout)
    shown = os.read(terminal, 65536).decode()
    assert process.communicate()[1] == ""
    os.close(terminal)
    assert process.returncode == 0
    assert shown.startswith("usage: twistnet doctor")
    assert not (tmp_path / "paged").exists()


def test_torchrun_shows_the_line_of_rank_0_once_even_where_it_starts_last(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, time\ntime.sleep(3 * (os.environ.get('RANK') == '0'))\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "twistnet", "doctor", "--jsn"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    line = "twistnet doctor: unknown flag --jsn: did you mean --json? See twistnet doctor --help.\n"
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count(line) == done.stderr.count("--jsn") == 1


def test_a_closed_pipe_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    process = _python("--help", stdout=write)
    os.close(write)
    assert process.communicate()[1] == ""
    assert process.returncode == 128 + 13
