"""A sweep as text: the grid of its runs while they go on, and what came of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from twistnet.sweeping.plan import Plan, Run
from twistnet.sweeping.states import State

MARKS = {"done": "#", "running": ">", "failed": "x", "broken": "-", "waiting": "."}
_MEANINGS = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "broken": "has a checkpoint to go on from",
    "waiting": "to come",
}
_NO_FIGURE = "-"


def grid(plan: Plan, states: Mapping[Run, State], width: int, height: int) -> list[str]:
    """Models by folds, a mark a seed, with the means so far.

    Args:
        plan: all runs.
        states: of each.
        width: of the terminal, in characters: no line is longer.
        height: of the terminal, in lines: models that find no place are left out, and counted.
    """
    across = max(len(plan.seeds), max(len(str(fold)) for fold in plan.folds))
    names = max(len(name) for name in ("fold", *plan.models))
    head = " ".join(f"{fold:>{across}}" for fold in plan.folds)
    lines = [f"{'fold':<{names}}  {head}   done     val     test   img/s"]
    shown = plan.models[: max(1, height - 3)]
    for model in shown:
        cells = [
            "".join(MARKS[states[plan.run(model, fold, seed)].kind] for seed in plan.seeds).rjust(across)
            for fold in plan.folds
        ]
        found = [states[plan.run(model, fold, seed)] for fold in plan.folds for seed in plan.seeds]
        done = f"{sum(state.kind == 'done' for state in found)}/{len(found)}"
        val, test = (_mean(found, name) for name in ("val_top1", "test_top1"))
        lines.append(f"{model:<{names}}  {' '.join(cells)}  {done:>5}  {val:>6}  {test:>7}  {_rate(found):>6}")
    if len(shown) < len(plan.models):
        lines.append(f"and {len(plan.models) - len(shown)} more models")
    used = [kind for kind in MARKS if any(state.kind == kind for state in states.values())]
    lines.append(", ".join(f"{MARKS[kind]} {_MEANINGS[kind]}" for kind in used))
    return [line[: max(1, width - 1)].rstrip() for line in lines]


def counts(states: Mapping[Run, State]) -> str:
    """How many runs stand where, in words."""
    words = {"done": "done", "running": "running", "failed": "failed", "broken": "to go on with", "waiting": "to come"}
    numbers = {kind: sum(state.kind == kind for state in states.values()) for kind in words}
    said = [f"{number} {words[kind]}" for kind, number in numbers.items() if number or kind == "done"]
    return f"{len(states)} runs: {', '.join(said)}"


def time_left(seconds: float | None, processes: int) -> str:
    """The time that is left, in words; nothing where it is not known or none is left.

    Args:
        seconds: of work.
        processes: that share it.
    """
    if not seconds:
        return ""
    shared = f" with {processes} processes" if processes > 1 else ""
    return f"about {tqdm.format_interval(round(seconds / max(processes, 1)))} left{shared}"


def summary(plan: Plan, states: Mapping[Run, State]) -> list[str]:
    """A line a model: how many runs it has, and the mean and sample standard deviation of their test accuracy."""
    rows = [("model", "runs", "test mean ± std", "val mean")]
    for model in plan.models:
        found = [states[plan.run(model, fold, seed)] for fold in plan.folds for seed in plan.seeds]
        tests = _values(found, "test_top1")
        spread = f"{100 * statistics.stdev(tests):5.2f} %" if len(tests) > 1 else _NO_FIGURE
        mean = f"{100 * statistics.fmean(tests):.2f} ± {spread}" if tests else _NO_FIGURE
        rows.append((model, f"{len(tests)} of {len(found)}", mean, _mean(found, "val_top1")))
    return _columns(rows, (str.ljust, str.rjust, str.rjust, str.rjust))


def failures(states: Mapping[Run, State]) -> list[str]:
    """A line a run that failed: which, and why; empty where none did."""
    rows = [(str(run), state.error) for run, state in states.items() if state.kind == "failed"]
    return _columns([("failed", "why"), *rows], (str.ljust, str.ljust)) if rows else []


def listing(states: Mapping[Run, State]) -> list[str]:
    """A line a run: what would be done with it."""
    rows = [("run", "state", "what")]
    for run, state in states.items():
        if state.result is not None:
            what = f"test {state.result.test_top1:.2%}, val {state.result.val_top1:.2%}: skipped"
        elif state.holder is not None:
            what = f"{state.epochs} epochs by {state.holder}: left to it"
        else:
            what = {
                "failed": f"tried again, from its checkpoint where it has one: {state.error}",
                "broken": "goes on from its checkpoint",
                "waiting": f"begins from weights {run.weights}",
            }[state.kind]
        rows.append((str(run), state.kind, what))
    return _columns(rows, (str.ljust, str.ljust, str.ljust))


def _rate(states: Sequence[State]) -> str:
    """Images a second that were trained on, in the mean of the runs that say so."""
    rates = [state.result.images_per_s for state in states if state.result and state.result.images_per_s]
    return f"{statistics.fmean(rates):.0f}" if rates else _NO_FIGURE


def _values(states: Sequence[State], name: str) -> list[float]:
    return [getattr(state.result, name) for state in states if state.result is not None]


def _mean(states: Sequence[State], name: str) -> str:
    values = _values(states, name)
    return f"{statistics.fmean(values):.1%}" if values else _NO_FIGURE


def _columns(rows: Sequence[tuple[str, ...]], aligned: Sequence[Callable[[str, int], str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(aligned))]
    return [
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)).rstrip()
        for row in rows
    ]
