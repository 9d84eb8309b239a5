"""Killed at any moment and started again, a conversion ends with the bytes of one that was never interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import write_tree
from PIL import Image

SEED = int(os.environ.get("TWISTNET_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
KILLS = 5  # for each of two policies
LIMIT_S = 120.0
FLAGS = ("--workers=2", "--min_shards=6", "--max_bad=0.1")

# Imports once and forks for every command line that it is given, as importing torch takes longer than converting does.
# Each command has a session of its own, by which its processes are found and killed.
_SERVER = """
import json, os, sys
import twistnet.commands.convert
from twistnet.__main__ import main
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(command["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(command["argv"]))
    print("pid", child, flush=True)
    print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Run:
    """One command line, running."""

    def __init__(self, server: subprocess.Popen[str], argv: list[str], err: Path) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._server, self._err = server, err
        self._code: int | None = None
        server.stdin.write(json.dumps({"argv": argv, "err": str(err)}) + "\n")
        server.stdin.flush()
        self.pid = self._told("pid")
        self.started = time.monotonic()

    @property
    def running(self) -> bool:
        return _state(self.pid) not in ("", "Z")

    @property
    def said(self) -> str:
        return self._err.read_text()

    def wait(self) -> int:
        if self._code is None:
            self._code = self._told("code")
        return self._code

    def _told(self, what: str) -> int:
        assert self._server.stdout is not None
        kind, number = self._server.stdout.readline().split()
        assert kind == what, "the test and its server are out of step"
        return int(number)

    def others(self) -> list[int]:
        """The processes of its session that live, but for the first."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != self.pid and _state(int(entry.name), self.pid) not in "Z":
                found.append(int(entry.name))
        return found


def _state(pid: int, session: int | None = None) -> str:
    """The state of a process as ps shows it; nothing where it is not there or of another session."""
    try:
        state, _, _, found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return ""
    return state if session in (None, int(found)) else ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    err = tmp_path_factory.mktemp("run") / "stderr"
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        runs: list[Run] = []

        def run(source: Path, out: Path, *flags: str) -> Run:
            argv = ["convert", f"--data_dir={source}", f"--out={out}", *FLAGS, *flags]
            runs.append(Run(server, argv, err))
            return runs[-1]

        try:
            yield run
        finally:
            for made in runs:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(made.pid, signal.SIGKILL)
            server.kill()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """360 images of 3 classes, some of them odd and some bad, so that every file has something to say."""
    tree = write_tree(tmp_path_factory.mktemp("images") / "tree", {"train": 120})
    files = sorted(tree.rglob("*.JPEG"))
    for place, path in enumerate(files[5::40]):
        with Image.open(path) as image:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
        path.write_bytes([buffer.getvalue(), b"no image", path.read_bytes()[:-99]][place % 3])
    return tree


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def finished(folder: Path) -> dict[str, str]:
    """What lies under a final name."""
    return {name: digest for name, digest in digests(folder).items() if name[0] != "."} if folder.exists() else {}


def finish(start: Callable[..., Run], images: Path, out: Path, *flags: str) -> float:
    """Runs to the end; returns how long it took."""
    run = start(images, out, *flags)
    assert run.wait() == 0, run.said
    return time.monotonic() - run.started


def kill(run: Run, *, alone: bool) -> None:
    """Kills all of its processes, or the first alone, whose children have to end by themselves."""
    if alone:
        os.kill(run.pid, signal.SIGKILL)
    else:
        os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    end = time.monotonic() + LIMIT_S
    while run.others():
        assert time.monotonic() < end, f"processes {run.others()} outlive their parent"
        time.sleep(0.01)


@pytest.mark.parametrize("policy", ["original", "short_side=80"])
def test_killed_at_ten_moments(policy: str, start: Callable[..., Run], images: Path, tmp_path: Path) -> None:
    print(f"TWISTNET_KILL_SEED={SEED}")
    draw = random.Random(f"{SEED} {policy}")
    flags = f"--images={policy}", "--splits=train"
    duration = finish(start, images, tmp_path / "whole", *flags)
    expected = digests(tmp_path / "whole")
    assert {"manifest.json", "quarantine.jsonl", "train.index.npy", "train-000005.tar"} <= expected.keys()
    assert len(expected) == 16
    assert (tmp_path / "whole" / "quarantine.jsonl").read_bytes().count(b"\n") == 6

    number, killed, goings_on = 0, 0, 0
    while killed < KILLS:
        out = tmp_path / f"out{number}"
        before = finished(out)
        run = start(images, out, *flags)
        # Half of the moments are anywhere, start and end included, and half while shards are written.
        until = run.started + draw.uniform(0, duration)
        if not killed:  # the first once a shard is there, so that one start at least goes on
            while run.running and not list(out.glob("train-*.tar")):
                time.sleep(0.001)
            until = time.monotonic()
        elif draw.random() < 0.5:
            while run.running and not list(out.glob(".*.tmp")):
                time.sleep(0.001)
            until = time.monotonic() + draw.uniform(0, 0.2)
        while run.running and time.monotonic() < until:
            time.sleep(0.001)
        if run.running:
            kill(run, alone=draw.random() < 0.4)
            killed += 1
        else:  # it was faster
            assert run.wait() == 0, run.said
            assert digests(out) == expected
            number += 1
        after = finished(out)
        assert after.items() <= expected.items(), "a file under a final name is not whole"
        assert before.keys() <= after.keys(), "a finished file is gone"
        goings_on += 0 < len(before) < len(expected)
    finish(start, images, tmp_path / f"out{number}", *flags)
    for place in range(number + 1):
        assert {path.name for path in (tmp_path / f"out{place}").iterdir()} == expected.keys()
        assert digests(tmp_path / f"out{place}") == expected
    print(f"{number + 1} conversions, {goings_on} starts that went on with some of the files")
    assert goings_on, "no kill met a conversion half-way"


def test_a_killed_worker_ends_the_run_in_a_sentence(start: Callable[..., Run], images: Path, tmp_path: Path) -> None:
    flags = "--images=short_side=80", "--splits=train"
    out = tmp_path / "out"
    run = start(images, out, *flags)
    while not list(out.glob(".*.tmp")):
        assert run.running, run.said
        time.sleep(0.001)
    # The workers are the children of the process that imports for them, and that one's parent is the first.
    worker = next(pid for pid in run.others() if _parent(pid) != run.pid and _parent(_parent(pid)) == run.pid)
    os.kill(worker, signal.SIGKILL)
    assert run.wait() == 1
    assert run.said.count("\n") == 1, run.said
    assert "was killed" in run.said
    assert "--workers" in run.said
    finish(start, images, out, *flags)
    finish(start, images, tmp_path / "whole", *flags)
    assert digests(out) == digests(tmp_path / "whole")


def test_killed_while_ffcvs_file_is_written(
    start: Callable[..., Run], images: Path, whole_beton: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = "--formats=beton", "--splits=train"
    run = start(images, out, *flags)
    temporary = out / ".train.beton.tmp"
    while not temporary.exists():
        assert run.running, run.said
        time.sleep(0.001)
    kill(run, alone=True)
    assert {name for name in finished(out) if not name.endswith((".tar", ".idx"))} == {"quarantine.jsonl"}
    finish(start, images, out, *flags)
    assert {path.name for path in out.iterdir()} == whole_beton.keys()
    assert digests(out) == whole_beton


@pytest.fixture(scope="module")
def whole_beton(start: Callable[..., Run], images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    out = tmp_path_factory.mktemp("whole") / "set"
    finish(start, images, out, "--formats=beton", "--splits=train")
    found = digests(out)
    lists = {"quarantine.jsonl", "train.repaired.jsonl"}
    assert set(found) == {"manifest.json", "train.index.npy", "train.beton"} | lists
    return found
