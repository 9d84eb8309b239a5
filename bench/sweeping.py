"""A sweep as a user starts it, in processes that may be killed, and what two sweeps differ in."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from loaders import InputError
from twistnet.predictions import NAME as PREDICTIONS
from twistnet.sweeping.claims import CLAIM
from twistnet.weights import REPOSITORY, SUFFIXES

_TIMES = ("seconds", "step_seconds", "eval_seconds", "images_per_s")  # of a result, which no two sweeps share
_POLL_S = 0.02
_LIMIT_S = 3600.0


class Sweep:
    """A sweep in a folder of its own, done by as many processes as are started.

    Args:
        data: absolute path of a data set in DTD's layout.
        folder: absolute path of the sweep's, whose parent is made.
        chosen: flags of `twistnet sweep` and their values.
    """

    def __init__(self, data: Path, folder: Path, chosen: dict[str, str]) -> None:
        self.folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._printed = folder.with_suffix(".txt")
        own = {"data_dir": str(data), "dataset": "dtd", **chosen, "run_dir": str(folder), "device": "cpu"}
        self._flags = [f"--{name}={value}" for name, value in own.items()]

    def start(self) -> subprocess.Popen[bytes]:
        """Gives the command."""
        return self._call("sweep", *self._flags)

    def finish(
        self,
        processes: list[subprocess.Popen[bytes]],
        waits: Sequence[tuple[int, float]] = (),
        killed: list[float] | None = None,
    ) -> float:
        """Waits for the end of all processes, and kills one at each moment; how many seconds that took.

        Weights of runs that are done are removed as it goes: those of sixty runs fill tens of gigabytes.

        Args:
            processes: started just now; one that is killed is started again.
            waits: how many runs are to be done before a kill, and how many seconds are to pass then.
            killed: gets the moment of each.
        """
        killed = [] if killed is None else killed
        began, due = time.monotonic(), math.inf
        with _ended(processes):
            while any(process.poll() is None for process in processes):
                now = time.monotonic()
                if now - began > _LIMIT_S:
                    raise InputError(f"the sweep took more than {_LIMIT_S:.0f} s; it said last: {self._said()}")
                done = self._prune()
                if waits and due == math.inf and done >= waits[0][0]:
                    due = now + waits[0][1]
                victim = len(killed) % len(processes)
                if now >= due and processes[victim].poll() is None:
                    processes[victim].kill()
                    processes[victim].wait()
                    killed.append(now - began)
                    processes[victim] = self.start()
                    waits, due = waits[1:], math.inf
                time.sleep(_POLL_S)
        seconds = time.monotonic() - began
        if any(process.returncode for process in processes):
            raise InputError(f"the sweep failed; it said last: {self._said()}")
        self._prune()
        return seconds

    def results(self) -> dict[str, dict[str, Any]]:
        """What each run came to, by its folder's name."""
        paths = sorted(self.folder.glob("*/*/result.json"))
        return {str(path.parent.relative_to(self.folder)): json.loads(path.read_text()) for path in paths}

    def table(self) -> list[dict[str, str]]:
        """The rows of `twistnet report`, but for their times."""
        process = self._call("report", str(self.folder))
        if process.wait():
            raise InputError(f"no table of the sweep could be made; twistnet report said last: {self._said()}")
        rows = csv.DictReader(io.StringIO((self.folder / "report" / "table.csv").read_text()))
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    def left(self) -> list[str]:
        """Claims that nobody has released."""
        return sorted(path.name for path in self.folder.rglob(f"{CLAIM}*"))

    def _prune(self) -> int:
        """Removes the weights of the runs that are done, and counts these."""
        done = list(self.folder.glob("*/*/result.json"))
        for path in done:
            if not (path.parent / CLAIM).exists():
                for file in path.parent.iterdir():
                    if file.suffix in SUFFIXES:
                        file.unlink()
        return len(done)

    def _call(self, *words: str) -> subprocess.Popen[bytes]:
        with self._printed.open("ab") as printed:
            return subprocess.Popen(
                [sys.executable, "-m", "twistnet", *words],
                cwd=REPOSITORY,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    def _said(self) -> str:
        return self._printed.read_text(errors="replace")[-3000:]


def refuse_difference(whole: Sweep, shared: Sweep, told: str) -> None:
    """Raises InputError, which names the first one, where two sweeps did not come to the same."""
    right, found = whole.results(), shared.results()
    if right.keys() != found.keys():
        raise InputError(f"{told} there is no result of {min(right.keys() ^ found.keys())} in both: look there.")
    for name in right:
        for key in sorted(right[name].keys() - {*_TIMES}):
            if found[name][key] != right[name][key]:
                raise InputError(
                    f"{told} the {key} of {name} is {found[name][key]} and not {right[name][key]}: look into resuming."
                )
        with np.load(whole.folder / name / PREDICTIONS) as one, np.load(shared.folder / name / PREDICTIONS) as other:
            for key in one.files:
                if not np.array_equal(one[key], other[key]):
                    raise InputError(f"{told} the {key} of {name} in {PREDICTIONS} differ: look into resuming.")
    for row, expected in zip(shared.table(), whole.table(), strict=True):
        if row != expected:
            key = next(key for key in expected if row[key] != expected[key])
            raise InputError(f"{told} the table's {key} of {row['label']} is {row[key]} and not {expected[key]}.")
    if left := shared.left():
        raise InputError(f"{told} {left[0]} is still there after the sweep's end: nobody has released it.")


@contextmanager
def _ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leaves none of the processes behind, however the block ends."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
