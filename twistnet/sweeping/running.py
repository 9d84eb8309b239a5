"""One run after the other, each claimed before it begins, until all of the sweep have ended."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TextIO

import torch

from loaders import InputError
from loaders.errors import one_line
from loaders.files import write_atomically
from twistnet import signals
from twistnet.checkpoints import LATEST
from twistnet.result import RESULT, find_result
from twistnet.sweeping import table
from twistnet.sweeping.claims import CLAIM, Claim, disk_time, take
from twistnet.sweeping.live import Live
from twistnet.sweeping.plan import Plan, Run
from twistnet.sweeping.quiet import printed_into
from twistnet.sweeping.states import ERROR, OUTPUT, State, States, seconds_left

_POLL_S = 2.0  # between two looks at runs of others
_ASLEEP_S = 0.1  # at once, so that a signal is followed
_GO_ON = "start the same command again to go on"
_LONGEST_ERROR = 400


class Sweep:
    """The runs that this process does of a sweep that others may share.

    Args:
        plan: all runs.
        epochs: of each.
        execute: does one, into its folder; what it prints goes there, too.
        stale_s: seconds after which a claim of another machine that nobody touches is left over.
        wait: whether to stay until the runs of other processes have ended, and take over what they leave.
        stream: where the table and the lines go.
    """

    def __init__(
        self,
        plan: Plan,
        epochs: int,
        execute: Callable[[Run], object],
        *,
        stale_s: float,
        wait: bool,
        stream: TextIO,
    ) -> None:
        self.plan, self._epochs, self._execute = plan, epochs, execute
        self._stale_s, self._wait = stale_s, wait
        self._runs = plan.runs
        self._states = States(stale_s)
        self._failed: set[Run] = set()  # here
        self._claim: Claim | None = None
        self._live = Live(stream, self._draw)
        self._told: set[Run] = set()  # that are done

    def run(self) -> dict[Run, State]:
        """Does what is there to do; where each run stands in the end.

        Raises:
            Stopped: as a signal asked for, with the run under way saved.
            OSError: where the sweep's folder cannot be written.
        """
        self._began = disk_time(self.plan.run_dir)
        states = self._states.all(self._runs)
        self._told = {run for run, state in states.items() if state.kind == "done"}
        self._live.say(f"{table.counts(states)}; {self.plan.run_dir}")
        try:
            with signals.noted(self._leave) as self._stopping:
                self._work()
        finally:
            self._live.close()
        return self._states.all(self._runs)

    def _work(self) -> None:
        waiting = False
        while True:
            self._stop_if_asked()
            found = self._next()
            self._tell_of_others()
            if found is not None:
                self._do(*found)
                waiting = False
                continue
            states = self._states.all(self._runs)
            holders = {state.holder for state in states.values() if state.holder}
            if any(self._would_take(run, state) for run, state in states.items()):
                time.sleep(_ASLEEP_S)  # another process has left it since the look before
                continue
            if not holders or not self._wait:
                return
            if not waiting:
                self._live.note(f"Waiting for {', '.join(sorted({str(holder) for holder in holders}))}.")
            waiting = True
            self._pause()

    def _next(self) -> tuple[Run, Claim] | None:
        """The first run that nobody has done or does, claimed; None where there is none."""
        for run in self._runs:
            if not self._is_free(run):
                continue
            run.folder.mkdir(parents=True, exist_ok=True)
            claim = take(run.folder / CLAIM, self._stale_s, partial(_end_lost, run))
            if claim is None:
                continue
            if find_result(run.folder / RESULT) is None and not self._has_failed(run):
                return run, claim
            claim.release()  # another one has done it between the look and the claim
        return None

    def _is_free(self, run: Run) -> bool:
        return self._would_take(run, self._states.of(run))

    def _would_take(self, run: Run, state: State) -> bool:
        return state.kind in ("waiting", "broken") or (state.kind == "failed" and not self._has_failed(run))

    def _has_failed(self, run: Run) -> bool:
        """Whether it has failed since this sweep began, here or in another process: once is enough."""
        try:
            return run in self._failed or (run.folder / ERROR).stat().st_mtime >= self._began
        except FileNotFoundError:
            return False

    def _do(self, run: Run, claim: Claim) -> None:
        self._claim = claim
        began = time.monotonic()
        error, also = None, ""
        self._live.note(f"{run}: {'goes on' if (run.folder / LATEST).exists() else 'begins'}; {OUTPUT} in {run.folder}")
        self._live.update()
        try:
            (run.folder / ERROR).unlink(missing_ok=True)
            with printed_into(run.folder / OUTPUT):
                try:
                    self._execute(run)
                except Exception as raised:  # whatever it was: the other runs are not to be lost by it
                    error, also = _sentence(raised), self._fails_others(raised)
                    _write_error(run, error, raised)
                    traceback.print_exc()
        except signals.Stopped as stopped:
            raise signals.Stopped(stopped.code - 128, f"in {run}, which is saved: {_GO_ON}") from None
        finally:
            claim.release()
            self._claim = None
        if error is not None:
            self._failed.add(run)
            self._live.say(f"{run}: failed: {error}")
            if also:
                raise InputError(f"{also}, then {_GO_ON}.")
            return
        self._tell(run, f" in {time.monotonic() - began:.0f} s")

    def _fails_others(self, error: Exception) -> str:
        """Why all other runs of this process would fail of it too, and what to do first; empty where they would not."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"no space is left for {self.plan.run_dir}: free some"
        # Of what a card has refused it may recover; of a fault in its memory the process never does.
        if isinstance(error, torch.AcceleratorError) and not _card_answers():
            return "the card no longer answers this process: see its state with nvidia-smi"
        return ""

    def _tell(self, run: Run, how: str) -> None:
        self._told.add(run)
        result = self._states.of(run).result
        if result is None:
            return
        states = self._states.all(self._runs)
        left = self._time_left(states)
        self._live.note(
            f"{run}: test {result.test_top1:.2%}, val {result.val_top1:.2%}{how}; "
            f"{table.counts(states)}{', ' if left else ''}{left}"
        )

    def _tell_of_others(self) -> None:
        for run in self._runs:
            if run not in self._told and self._states.of(run).kind == "done":
                self._tell(run, " by another process")

    def _draw(self, width: int, height: int) -> list[str]:
        states = self._states.all(self._runs)
        left = self._time_left(states)
        head = f"{table.counts(states)}{', ' if left else ''}{left}"
        return [head[: width - 1], *table.grid(self.plan, states, width, height - 2)]

    def _time_left(self, states: dict[Run, State]) -> str:
        holders = {(state.holder.host, state.holder.pid) for state in states.values() if state.holder}
        return table.time_left(seconds_left(states, self._epochs), len(holders))

    def _pause(self) -> None:
        end = time.monotonic() + _POLL_S
        while time.monotonic() < end and not self._stopping.signal:
            time.sleep(_ASLEEP_S)

    def _stop_if_asked(self) -> None:
        if self._stopping.signal:
            raise signals.Stopped(self._stopping.signal, f"between two runs: {_GO_ON}")

    def _leave(self) -> str:
        """What is done and said where the process ends before the run under way can be saved."""
        if self._claim is not None:
            self._claim.release()
        return f"{_GO_ON[0].upper()}{_GO_ON[1:]}."


def _card_answers() -> bool:
    """Whether the process can still work with its card, which an error of one kernel may have ended for good."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _sentence(error: Exception) -> str:
    """What went wrong, on one line."""
    text = one_line(error, _LONGEST_ERROR)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _write_error(run: Run, sentence: str, error: Exception) -> None:
    text = "".join([sentence, "\n\n", *traceback.format_exception(error)])
    write_atomically(run.folder / ERROR, lambda file: file.write(text.encode(errors="backslashreplace")))


def _end_lost(run: Run) -> None:
    """Ends the process, whose run another one does by now: both would write into one folder."""
    sys.stderr.write(
        f"error: {run} was taken over by another process, since this one stood still for long or its {CLAIM} was "
        f"removed: {_GO_ON}.\n"
    )
    sys.stderr.flush()
    os._exit(1)
