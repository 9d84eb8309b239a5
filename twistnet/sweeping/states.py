"""Where each run of a sweep stands, from its folder alone, whoever works at it."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twistnet.checkpoints import LATEST
from twistnet.result import RESULT, Result, find_result
from twistnet.sweeping.claims import CLAIM, Holder, is_held
from twistnet.sweeping.plan import Run

Kind = Literal["done", "running", "failed", "broken", "waiting"]
ERROR = "error.txt"
OUTPUT = "output.txt"
_TAIL = 1 << 16  # bytes of a log, more than any row


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a run stands.

    Attributes:
        kind: "done": it has a result; "running": a living process has claimed it; "failed": it ended with an error;
            "broken": it has a checkpoint to go on from; "waiting": nothing of it is there.
        result: what result.json holds, of one that is done.
        error: a sentence, of one that failed.
        holder: the process that has claimed it.
        epochs: that were finished, of one that is running.
    """

    kind: Kind
    result: Result | None = None
    error: str = ""
    holder: Holder | None = None
    epochs: int = 0


class States:
    """Looks into the folders of runs; those that are done are remembered, and not looked into again.

    Args:
        stale_s: seconds after which a claim of another machine that nobody touches is left over.
    """

    def __init__(self, stale_s: float) -> None:
        self._stale_s = stale_s
        self._done: dict[Run, State] = {}

    def of(self, run: Run) -> State:
        """Where a run stands now."""
        if run in self._done:
            return self._done[run]
        result = find_result(run.folder / RESULT)
        if result is not None:
            self._done[run] = State(kind="done", result=result)
            return self._done[run]
        holder = is_held(run.folder / CLAIM, self._stale_s)
        if holder is not None:
            return State(kind="running", holder=holder, epochs=_epochs(run.folder / "log.jsonl"))
        error = read_error(run.folder)
        if error is not None:
            return State(kind="failed", error=error)
        return State(kind="broken" if (run.folder / LATEST).exists() else "waiting")

    def all(self, runs: Iterable[Run]) -> dict[Run, State]:
        """Where all of them stand."""
        return {run: self.of(run) for run in runs}


def read_error(folder: Path) -> str | None:
    """The sentence of a run that failed; None where it did not."""
    try:
        lines = (folder / ERROR).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return lines[0] if lines else "it does not say why"


def seconds_left(states: Mapping[Run, State], epochs: int) -> float | None:
    """How long the runs that are not done take, one after the other; None where none has ended that would tell.

    Args:
        states: of all runs.
        epochs: of each.
    """
    taken: dict[str, list[float]] = {}
    for run, state in states.items():
        if state.result is not None and state.result.seconds:
            taken.setdefault(run.model, []).append(state.result.seconds)
    if not taken:
        return None
    means = {model: statistics.fmean(seconds) for model, seconds in taken.items()}
    usual = statistics.fmean(means.values())
    left = [
        means.get(run.model, usual) * (1 - min(state.epochs / epochs, 1))
        for run, state in states.items()
        if state.kind not in ("done", "failed")
    ]
    return sum(left)


def _epochs(log: Path) -> int:
    """Epochs that a run's log tells of; its last line may be half written."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            row = json.loads(line)
            return int(row["epoch"]) - int(row["kind"] != "epoch")
        except (ValueError, TypeError, KeyError):
            continue
    return 0
