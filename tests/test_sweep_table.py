"""What a sweep shows, from the states of its runs: the grid, the time left, and the table on a terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loaders import InputError
from twistnet.result import Result
from twistnet.sweeping import table
from twistnet.sweeping.claims import CLAIM, Holder, take
from twistnet.sweeping.live import Live
from twistnet.sweeping.plan import Plan, Run, settle, weights_of
from twistnet.sweeping.states import State, States, seconds_left

MODELS = ("resnet18", "twistnet18")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(run_dir=tmp_path, models=MODELS, folds=(1, 2, 10), seeds=(42, 43), weights=weights_of(MODELS, ["auto"]))


def result(**values: float) -> Result:
    text = {"model": "resnet18", "dataset": "dtd", "recipe": "dtd", "tune": "all", "test_fingerprint": "f"}
    counts = dict.fromkeys(("fold", "seed", "epochs", "best_epoch", "test_samples", "train_samples", "num_classes"), 1)
    rest = dict.fromkeys(("test_top5", "test_balanced", "images_per_s", "seconds", "step_seconds", "eval_seconds"), 0.0)
    given: dict[str, Any] = {**text, **counts, **rest, "parameters": 1, "weights": None, "weights_sha256": None}
    return Result(**(given | values))


def done(test: float, **more: float) -> State:
    return State(kind="done", result=result(test_top1=test, val_top1=test + 0.1, **more))


@pytest.fixture
def states(plan: Plan) -> dict[Run, State]:
    """Of the first model all but one done, of the second one of each other kind."""
    found = dict.fromkeys(plan.runs, State(kind="waiting"))
    for run, test in zip(
        [run for run in plan.runs if run.model == "resnet18"][:5], (0.5, 0.6, 0.7, 0.6, 0.5), strict=True
    ):
        found[run] = done(test, seconds=100.0, images_per_s=90.0)
    own = [run for run in plan.runs if run.model == "twistnet18"]
    found[own[0]] = State(kind="running", holder=Holder.here(), epochs=25)
    found[own[1]] = State(kind="failed", error="it would not")
    found[own[2]] = State(kind="broken")
    return found


def test_runs_are_begun_fold_by_fold_and_lie_where_they_are_looked_for(plan: Plan) -> None:
    assert [str(run) for run in plan.runs[:3]] == [
        "resnet18 fold 1 seed 42",
        "twistnet18 fold 1 seed 42",
        "resnet18 fold 2 seed 42",
    ]
    assert plan.runs[5].folder == plan.run_dir / "twistnet18/fold10-seed42"
    assert len({run.folder for run in plan.runs}) == 12
    with pytest.raises(InputError, match="--seeds gives 42 twice: leave one"):
        replace(plan, seeds=(42, 43, 42))


def test_the_grid(plan: Plan, states: dict[Run, State]) -> None:
    assert table.grid(plan, states, 200, 50) == [
        "fold         1  2 10   done     val     test   img/s",
        "resnet18    ## ## #.    5/6   68.0%    58.0%      90",
        "twistnet18  >. x. -.    0/6       -        -       -",
        "# done, > running, x failed, - has a checkpoint to go on from, . to come",
    ]
    assert max(map(len, table.grid(plan, states, 20, 50))) == 19
    assert table.grid(plan, states, 200, 4)[2] == "and 1 more models"
    assert table.counts(states) == "12 runs: 5 done, 1 running, 1 failed, 1 to go on with, 4 to come"


def test_the_summary_is_mean_and_sample_deviation(plan: Plan, states: dict[Run, State]) -> None:
    tests = [50, 60, 70, 60, 50]
    head, first, second = table.summary(plan, states)
    assert head.split("  ")[0] == "model"
    assert first.split() == [
        "resnet18",
        "5",
        "of",
        "6",
        f"{np.mean(tests):.2f}",
        "±",
        f"{np.std(tests, ddof=1):.2f}",
        "%",
        "68.0%",
    ]
    assert second.split() == ["twistnet18", "0", "of", "6", "-", "-"]
    assert table.failures(states)[1:] == ["twistnet18 fold 2 seed 42  it would not"]
    assert table.failures({run: state for run, state in states.items() if state.kind != "failed"}) == []


def test_the_time_left(plan: Plan, states: dict[Run, State]) -> None:
    # One of resnet18; of twistnet18, which has no time of its own yet, three quarters of one and four whole ones.
    assert seconds_left(states, 100) == pytest.approx(100 * (1 + 0.75 + 4))
    slow = [run for run in plan.runs if run.model == "twistnet18"]
    states[slow[0]] = done(0.5, seconds=1000.0)
    assert seconds_left(states, 100) == pytest.approx(100 + 4 * 1000)
    assert seconds_left(dict.fromkeys(plan.runs, done(0.5)), 100) is None
    assert table.time_left(3600 * 3, 2) == "about 1:30:00 left with 2 processes"
    assert table.time_left(None, 1) == table.time_left(0.0, 1) == ""


def test_states_are_read_from_folders(plan: Plan) -> None:
    runs, found = plan.runs, States(100.0)
    for run in runs[:6]:
        run.folder.mkdir(parents=True)
    (runs[0].folder / "result.json").write_text(json.dumps(dataclasses.asdict(result(test_top1=0.5, val_top1=0.25))))
    (runs[1].folder / "result.json").write_text('{"test_top1": 0.5')
    claim = take(runs[2].folder / CLAIM, 100.0, lambda: None)
    assert claim is not None
    rows = [{"kind": "steps", "epoch": 3}, {"kind": "epoch", "epoch": 3}, {"kind": "steps", "epoch": 4}]
    (runs[2].folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "epo')
    (runs[2].folder / "error.txt").write_text("of before\n")
    (runs[3].folder / "error.txt").write_text("no such thing: look.\n\nTraceback\n")
    (runs[4].folder / "latest.pt").touch()
    states = found.all(runs)
    claim.release()
    kinds = ["done", "waiting", "running", "failed", "broken", "waiting", *["waiting"] * 6]
    assert [state.kind for state in states.values()] == kinds
    assert states[runs[2]].epochs == 3
    assert states[runs[3]].error == "no such thing: look."
    assert found.of(runs[2]).kind == "failed"
    (runs[0].folder / "result.json").unlink()
    assert found.of(runs[0]).kind == "done", "what was done once is not looked for again"
    listed = table.listing(states)
    assert re.fullmatch(r"twistnet18 fold 1 seed 42 +waiting +begins from weights auto", listed[2])
    assert re.fullmatch(r"resnet18 fold 1 seed 42 +done +test 50.00%, val 25.00%: skipped", listed[1])
    assert re.fullmatch(r"resnet18 fold 2 seed 42 +running +3 epochs by process \d+ on .+: left to it", listed[3])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["auto"], ["auto", "auto"]),
        (["none"], ["none", "none"]),
        (["twistnet18=none"], ["auto", "none"]),
        (["{file}"], ["{file}", "{file}"]),
        (["twistnet18={file}", "resnet18=auto"], ["auto", "{file}"]),
        (["resnet50=none"], "--weights resnet50=none is for none of the models: take one of resnet18, twistnet18"),
        (["none", "resnet18=none"], "--weights none stands beside others"),
        (["resnet18=none", "resnet18=auto"], "--weights gives resnet18 twice"),
        (["resnet18="], "--weights of resnet18 is empty"),
        (["twistnet18=gone.pt"], "there is no weights file gone.pt for twistnet18"),
    ],
)
def test_weights_by_model(tmp_path: Path, given: list[str], expected: list[str] | str) -> None:
    file = tmp_path / "w.pt"
    file.touch()
    given = [text.format(file=file) for text in given]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=re.escape(expected)):
            weights_of(MODELS, given)
    else:
        assert list(weights_of(MODELS, given).values()) == [text.format(file=file) for text in expected]


ASKED: dict[str, Any] = {
    **{"data_dir": "/data/dtd", "dataset": "dtd", "recipe": "dtd", "changes": {"epochs": 100}},
    "weights": {"resnet18": "auto"},
}


def test_a_folder_is_of_one_sweep(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs"
    for _ in range(2):
        settle(run_dir, ASKED, 100.0)
    settle(run_dir, ASKED | {"weights": {"resnet50": "none"}}, 100.0)
    both = ASKED | {"weights": {"resnet18": "auto", "resnet50": "none"}}
    assert json.loads((run_dir / "sweep.json").read_text()) == both
    for other, said in [
        ({"data_dir": "/data"}, "data_dir /data/dtd, not /data"),
        ({"changes": {"epochs": 50, "lr": 0.1}}, "epochs 100, not 50; lr the recipe's own, not 0.1"),
        ({"changes": {}}, "epochs 100, not the recipe's own"),
        ({"recipe": "demo_dtd"}, "recipe dtd, not demo_dtd"),
        ({"weights": {"resnet50": "auto"}}, "weights of resnet50 none, not auto"),
    ]:
        with pytest.raises(InputError, match=re.escape(f"{run_dir} holds a sweep with {said}: choose another")):
            settle(run_dir, ASKED | other, 100.0)
    assert json.loads((run_dir / "sweep.json").read_text()) == both
    assert [path.name for path in run_dir.iterdir()] == ["sweep.json"]
    (run_dir / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match="does not say what the sweep was begun with"):
        settle(run_dir, ASKED, 100.0)


class Terminal(io.StringIO):
    """Keeps what a terminal would show of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.row, self.column = [""], 0, 0

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def write(self, text: str) -> int:
        for code, count, letter, plain in re.findall(r"(\x1b\[(\d*)([AKJ]))|((?s:.))", text):
            if code:
                self._control(letter, int(count or 1))
            elif plain == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row == len(self.lines))
            elif plain == "\r":
                self.column = 0
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + plain + line[self.column + 1 :]
                self.column += 1
        return len(text)

    def _control(self, letter: str, count: int) -> None:
        if letter == "A":
            self.row = max(0, self.row - count)
            return
        self.lines[self.row] = self.lines[self.row][: self.column]
        if letter == "J":
            del self.lines[self.row + 1 :]


def test_a_table_stays_in_its_place_on_a_terminal() -> None:
    terminal, shown = Terminal(), ["one of a long line", "two", "three"]
    live = Live(terminal, lambda width, height: [*shown, f"{width} x {height}"], every_s=1000)
    live.update()
    assert terminal.lines == ["one of a long line", "two", "three", "80 x 24", ""]
    shown[:] = ["1"]
    live.update()
    assert terminal.lines == ["1", "80 x 24", ""]
    live.note("which the table tells")
    live.say("failed")
    shown[:] = ["2", "3"]
    live.say("failed again")
    live.close()
    assert terminal.lines == ["failed", "failed again", "2", "3", "80 x 24", ""]


def test_a_table_is_drawn_again_by_itself() -> None:
    drawn = threading.Semaphore(0)

    def draw(*_: int) -> list[str]:
        drawn.release()
        raise OSError("the disk is away for a moment")

    live = Live(Terminal(), draw, every_s=0.01)
    assert all(drawn.acquire(timeout=30) for _ in range(3))
    live._draw = lambda *_: []
    live.close()


def test_without_a_terminal_there_are_lines_alone() -> None:
    file = io.StringIO()
    live = Live(file, lambda *_: ["a table"], every_s=0.01)
    live.note("begun")
    live.say("failed")
    live.update()
    live.close()
    assert file.getvalue() == "begun\nfailed\n"
