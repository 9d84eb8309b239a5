"""A run on two ranks that is hit by signals at random moments, and must end as one that was never touched.

Ranks and torchrun itself get SIGKILL, SIGTERM, SIGUSR1, and SIGSTOP for a second; where torchrun ends, the same command
is given again, as SLURM, Kubernetes or a user would.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.options import check_positive
from bench.recorded import Taken, last_taken
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from convert.photographs import make_demo_sets
from loaders import InputError, open_store
from twistnet import environment
from twistnet.run_folder import RunFolder
from twistnet.weights import REPOSITORY

RANKS = 2
BATCH_SIZE, SIZE, MODEL = 8, 32, "test_resnet"  # of a rank, pixels, timm's smallest
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP)
_STOPPED_S = 1.0
_TO_LAUNCHER = 0.2  # share of the hits
_BY_TIME = 0.3  # share of the hits that wait for no step, and so meet starts and restarts too
_LONGEST_WAIT_S = 10.0  # of those
_ENDS = 0.85  # of the run, where the last hit comes at the latest
_POLL_S = 0.002
_LIMIT_S = 1800.0
_WEIGHTS = f"{MODEL}_imagenet.pt"


def torture(*, data_dir: Path | None = None, steps: int = 400, hits: int = 20, seed: int | None = None) -> None:
    """Kills and stops a run at random moments, holds it to an untouched one, and adds a row to torture.csv.

    Args:
        data_dir: a tree or a converted set with the splits train and val; photographs that packages ship are cut unless
            given.
        steps: of the run, at least.
        hits: signals, at most: as many as come before the run ends.
        seed: of moments, signals and victims; a random one unless given.
    """
    check_positive(steps=steps, hits=hits)
    check_results("torture")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder:
        data = data_dir or make_demo_sets(Path(folder) / "demo", progress=False).photographs
        found = tortured(data.resolve(), Path(folder), steps=steps, hits=hits, seed=seed)
    about = environment.describe(torch.device("cpu"))
    options = {
        "ranks": RANKS,
        "batch": BATCH_SIZE,
        "size": SIZE,
        "model": MODEL,
        "asked": hits,
        "seed": seed,
        "data": data.name,
    }
    path = append_rows("torture", [columns_before(about) | found.row() | columns_after(about, options)])
    print(found)
    print(added(path))


@dataclass(slots=True)
class Outcome:
    """What a run has come through, with the same batches and weights as the untouched one.

    Attributes:
        steps: of the run.
        untouched_s: seconds of the untouched run, from its command to its end.
        seconds: of this one.
        kinds: signals by name.
        to_launcher: how many of them torchrun got.
        starts: how often the command was given.
        restarts: how often training began again, by the command or by torchrun.
        repeated: steps that were taken again.
    """

    steps: int = 0
    untouched_s: float = 0.0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    to_launcher: int = 0
    starts: int = 0
    restarts: int = 0
    repeated: int = 0

    @property
    def hits(self) -> int:
        """Signals that met a process."""
        return self.kinds.total()

    def row(self) -> dict[str, float]:
        """The columns of its figures."""
        return {
            "n": self.hits,
            **{number.name.removeprefix("SIG").lower(): self.kinds[number.name] for number in SIGNALS},
            "to_launcher": self.to_launcher,
            "steps": self.steps,
            "commands": self.starts,
            "restarts": self.restarts,
            "steps_repeated": self.repeated,
            "seconds": round(self.seconds, 1),
            "untouched_s": round(self.untouched_s, 1),
            "lost_s": round(self.seconds - self.untouched_s, 1),
        }

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.kinds.items()))
        return (
            f"{self.hits} signals ({kinds}; {self.to_launcher} of them to torchrun) in {self.steps} steps: training "
            f"began again {self.restarts} times, {self.starts - 1} of them by the command, {self.repeated} steps were "
            f"taken again, {self.seconds - self.untouched_s:.0f} s lost beside {self.untouched_s:.0f} s untouched; the "
            "same batches and, bit for bit, the same weights."
        )


def tortured(data: Path, root: Path, *, steps: int, hits: int, seed: int) -> Outcome:
    """Trains once untouched and once under signals.

    Args:
        data: absolute path of a set.
        root: an absolute path: a folder for both runs.
        steps: of the run, at least.
        hits: signals, at most.
        seed: of moments, signals and victims.

    Raises:
        InputError: where the two differ in any batch or weight, where a step is not logged exactly once, or where the
            run does not come to its end.
    """
    per_epoch = -(-len(open_store(data, "train")) // (RANKS * BATCH_SIZE))
    untouched, run = (_Run(data, root / name, -(-steps // per_epoch)) for name in ("untouched", "tortured"))
    untouched.finish()
    expected = untouched.taken()
    found, hitting = run.outcome, _Hitting(run, per_epoch, len(expected.batches), hits, random.Random(seed))
    run.finish(hitting, most_starts=2 * hits + 1)
    taken = run.taken()
    found.untouched_s, found.repeated, found.steps = untouched.outcome.seconds, taken.repeated, len(expected.batches)
    told = f"with --seed {seed} and {found.hits} signals"
    if taken.differing or taken.batches != expected.batches:
        places = {place for place in expected.batches if taken.batches.get(place) != expected.batches[place]}
        raise InputError(f"{told} other batches were taken in steps {sorted(places | {*taken.differing})}: look there.")
    weights, right = (torch.load(each.folder.path / _WEIGHTS, weights_only=True) for each in (run, untouched))
    wrong = [name for name in right if not torch.equal(weights[name], right[name])]
    if wrong:
        raise InputError(f"{told} {len(wrong)} of {len(right)} weights differ, {wrong[0]} first: look into resuming.")
    logged = [[row["step"] for row in each.folder.rows() if row["kind"] == "steps"] for each in (run, untouched)]
    if logged[0] != logged[1]:
        raise InputError(f"{told} the log holds steps {logged[0]}: each must be there once.")
    found.restarts = sum(row["kind"] == "start" for row in run.folder.rows()) - 1
    return found


class _Run:
    """A run in a folder of its own, started as often as it takes."""

    def __init__(self, data: Path, root: Path, epochs: int) -> None:
        root.mkdir()
        self.folder, self.record, self.outcome = RunFolder(root / "run"), root / "record", Outcome()
        self._printed = root / "printed.txt"
        flags = {
            **{"data_dir": data, "recipe": "demo", "model": MODEL, "epochs": epochs, "size": SIZE},
            **{"batch_size": BATCH_SIZE, "device": "cpu", "workers": 1, "checkpoint_dir": self.folder.path},
            **{"resume": "auto", "log_every": 1, "checkpoint_minutes": 0},
        }
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}", "--max_restarts=1000"]
        self._command = [
            *(sys.executable, "-m", *torchrun, "--module", "bench.recorded", str(self.record), "pretrain"),
            *(f"--{name}={value}" for name, value in flags.items()),
            *("--no_publish", "--set=ema_decay=0.9"),
        ]

    def finish(self, between: Callable[[int], None] = lambda _: None, most_starts: int = 1) -> None:
        """Runs to the end.

        Args:
            between: called again and again with torchrun's process number while that is there.
            most_starts: how often the command may be given.

        Raises:
            InputError: where that is too seldom, or the run takes too long.
        """
        began = time.monotonic()
        process = self._start()
        try:
            while (code := process.poll()) != 0:
                if time.monotonic() - began > _LIMIT_S:
                    raise InputError(f"the run took more than {_LIMIT_S:.0f} s; it said last: {self._said()}")
                if code is None:
                    between(process.pid)
                    time.sleep(_POLL_S)
                elif self.outcome.starts == most_starts:
                    raise InputError(f"the run ended with code {code}; it said last: {self._said()}")
                else:
                    process = self._start()
        finally:
            process.kill()  # the workers end with it
            process.wait()
        self.outcome.seconds = time.monotonic() - began
        self._refuse_remains()

    def taken(self) -> Taken:
        """The batches of all starts."""
        return Taken.read(self.record)

    def _start(self) -> subprocess.Popen[bytes]:
        self.outcome.starts += 1
        with self._printed.open("ab") as printed:
            return subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for this process, which then ends that one
            )

    def _said(self) -> str:
        return self._printed.read_text(errors="replace")[-3000:]

    def _refuse_remains(self) -> None:
        """Raises InputError where a process of the run is still there a minute after its end."""
        end = time.monotonic() + 60
        while left := [pid for pid in _processes() if os.fsencode(self.record) in _read(pid, "cmdline")]:
            if time.monotonic() > end:
                raise InputError(f"processes {left} of the run are still there after its end: they wait in vain.")
            time.sleep(0.1)


class _Hitting:
    """Sends the signals, each at its moment.

    Args:
        run: what is hit.
        per_epoch: steps.
        steps: of the whole run.
        hits: signals, at most.
        rng: of all that is random.
    """

    def __init__(self, run: _Run, per_epoch: int, steps: int, hits: int, rng: random.Random) -> None:
        self._run, self._per_epoch, self._steps, self._rng = run, per_epoch, steps, rng
        self._left = [SIGNALS[place % len(SIGNALS)] for place in range(hits)]  # each kind equally often
        rng.shuffle(self._left)
        self._choose()

    def __call__(self, launcher: int) -> None:
        """Sends a signal if it is time; to torchrun where it has no workers yet."""
        if not self._left or not self._is_time():
            return
        time.sleep(self._rng.random() * 0.1)  # into the step
        workers = _workers(launcher)
        victim = self._rng.choice(workers) if workers and self._rng.random() >= _TO_LAUNCHER else launcher
        number = self._left[-1]
        try:
            os.kill(victim, number)
            if number == signal.SIGSTOP:
                time.sleep(_STOPPED_S)
                os.kill(victim, signal.SIGCONT)
        except ProcessLookupError:  # it has ended meanwhile: the next one is hit
            return
        self._left.pop()
        self._run.outcome.kinds[number.name] += 1
        self._run.outcome.to_launcher += victim == launcher
        self._choose()

    def _choose(self) -> None:
        """The next moment: after a step, or after a time, wherever the run is then."""
        progress, last = self._progress(), int(_ENDS * self._steps)
        ahead = 2 * max(last - progress, 0) // (len(self._left) + 1)
        self._after_step = min(last, progress + self._rng.randint(1, max(ahead, 1)))
        by_time = self._rng.random() < _BY_TIME
        self._at = time.monotonic() + self._rng.random() * _LONGEST_WAIT_S if by_time else float("inf")

    def _is_time(self) -> bool:
        return time.monotonic() >= self._at or self._progress() >= self._after_step

    def _progress(self) -> int:
        """Steps begun so far, also where the run has been thrown back."""
        epoch, step = last_taken(self._run.record) or (0, -1)
        return epoch * self._per_epoch + step + 1


def _workers(launcher: int) -> list[int]:
    """The ranks that a torchrun has started."""
    return [pid for pid in _processes() if _parent(pid) == launcher and b"\0RANK=" in b"\0" + _read(pid, "environ")]


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> bytes:
    """A file about a process; empty where it has ended, or is somebody else's."""
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except OSError:
        return b""
