"""A claim has one holder: among many that try at once, and among many that want what a dead one has left."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from twistnet.sweeping import claims
from twistnet.sweeping.claims import CLAIM, Claim, Holder, is_held, look, take

PROCESSES, CLAIMS = 8, 20
STALE_S = 100.0
_FORK = multiprocessing.get_context("fork")


def never() -> None:
    raise AssertionError("nobody took it over")


def note(path: Path, line: str) -> None:
    """One write of a line, which the system appends whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def in_processes(work: Callable[[int], None]) -> None:
    processes = [_FORK.Process(target=work, args=(number,)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES


def race(folders: list[Path], found: Path) -> Counter[str]:
    """How often each folder's claim was won, where all processes want all of them and nobody releases any."""
    start, end = _FORK.Barrier(PROCESSES), _FORK.Barrier(PROCESSES)

    def work(number: int) -> None:
        start.wait(60)
        held = []
        for folder in folders:
            claim = take(folder / CLAIM, STALE_S, never)
            if claim is not None:
                held.append(claim)
                note(found, f"{folder.name} {number}")
        end.wait(60)  # as long as one lives, its claims are not left over

    in_processes(work)
    return Counter(line.split()[0] for line in found.read_text().splitlines())


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "runs" / f"run{number:02d}" for number in range(CLAIMS)]
    for folder in made:
        folder.mkdir(parents=True)
    return made


@pytest.fixture
def killed() -> Iterator[int]:
    """The number of a process that was killed and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def written(folder: Path, seconds: float = 0, **changes: object) -> None:
    """A claim as this process would have it, with changes, last touched so long ago."""
    here = Holder.here()
    holder = {name: getattr(here, name) for name in Holder.__dataclass_fields__} | changes
    (folder / CLAIM).write_text(json.dumps(holder))
    age(folder, seconds)


def torn(folder: Path, seconds: float = 0) -> None:
    """A claim that was not written to its end."""
    (folder / CLAIM).write_text('{"tok')
    age(folder, seconds)


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / CLAIM, (then, then))


def test_one_of_many_wins_what_is_free(folders: list[Path], tmp_path: Path) -> None:
    assert race(folders, tmp_path / "won") == {folder.name: 1 for folder in folders}


def test_one_of_many_takes_over_what_is_left(folders: list[Path], tmp_path: Path, killed: int) -> None:
    left: list[Callable[[Path], None]] = [
        lambda folder: written(folder, pid=killed),
        lambda folder: written(folder, pid=os.getpid(), started=Holder.here().started - 1),  # a number used again
        lambda folder: written(folder, STALE_S + 50, host="elsewhere"),
        lambda folder: torn(folder, STALE_S + 50),
    ]
    for number, folder in enumerate(folders):
        left[number % len(left)](folder)
        # One that was about to take it over has been killed, too.
        seen = look(folder / CLAIM)
        assert seen is not None
        if number % 3 == 0:
            written(tmp_path, pid=killed)
            os.rename(tmp_path / CLAIM, folder / f"{CLAIM}.{seen.token}")
    assert race(folders, tmp_path / "won") == {folder.name: 1 for folder in folders}


def test_nobody_takes_what_lives(folders: list[Path], tmp_path: Path) -> None:
    living: list[Callable[[Path], None]] = [
        written,
        lambda folder: written(folder, 10 * STALE_S),  # stopped for long, and seen to be there
        lambda folder: written(folder, host="elsewhere"),
        lambda folder: written(folder, boot="another start of a machine of this name"),
        torn,
    ]
    for number, folder in enumerate(folders):
        living[number % len(living)](folder)
    (tmp_path / "won").touch()
    assert race(folders, tmp_path / "won") == {}
    holders = [is_held(folder / CLAIM, STALE_S) for folder in folders[:5]]
    here, host = f"process {os.getpid()} on ", socket.gethostname()
    assert [str(holder) for holder in holders] == [
        *(f"{here}{host}", f"{here}{host}", f"{here}elsewhere", f"{here}{host}"),
        "None",
    ]


def test_never_two_at_a_time(tmp_path: Path) -> None:
    """All of them take, release, and leave behind one claim, again and again."""
    path, inside, wrong = tmp_path / CLAIM, tmp_path / "inside", tmp_path / "wrong"
    turns = tmp_path / "turns"

    def work(number: int) -> None:
        rng = random.Random(number)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            claim = take(path, STALE_S, lambda: None)
            if claim is None:
                time.sleep(rng.random() * 0.002)
                continue
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                note(wrong, str(number))
            time.sleep(rng.random() * 0.002)
            inside.unlink(missing_ok=True)
            note(turns, str(number))
            if rng.random() < 0.5:
                claim.release()
            else:
                leave(claim)

    def leave(claim: Claim) -> None:
        """As if this process had been killed."""
        claim._closing.set()
        values = json.loads(path.read_text())
        new = tmp_path / f"left{os.getpid()}"
        new.write_text(json.dumps(values | {"started": values["started"] - 1}))
        os.replace(new, path)

    in_processes(work)
    assert not wrong.exists()
    counted = Counter(turns.read_text().split())
    assert sum(counted.values()) > 50
    assert len(counted) > 1


def test_a_claim_is_touched_and_released(tmp_path: Path, killed: int) -> None:
    path = tmp_path / CLAIM
    claim = take(path, 1.0, never)
    assert claim is not None
    age(tmp_path, 1000)
    deadline = time.monotonic() + 30
    while time.time() - path.stat().st_mtime > 500 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 500
    assert take(path, 1.0, never) is None
    (tmp_path / f"{CLAIM}.left").touch()
    claim.release()
    assert list(tmp_path.iterdir()) == []
    written(tmp_path, pid=killed)
    claim.release()
    assert path.exists(), "it is another one's"


@pytest.mark.parametrize("how", ["removed", "taken over"])
def test_who_has_lost_a_claim_learns_it(tmp_path: Path, how: str) -> None:
    lost = threading.Event()
    claim = take(tmp_path / CLAIM, 1.0, lost.set)
    assert claim is not None
    (tmp_path / CLAIM).unlink()
    if how == "taken over":
        written(tmp_path, host="elsewhere")
    assert lost.wait(30)
    claim.release()
    assert (tmp_path / CLAIM).exists() == (how == "taken over")


def test_a_disk_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    claim = take(tmp_path / CLAIM, STALE_S, never)
    assert claim is not None
    assert take(tmp_path / CLAIM, STALE_S, never) is None
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_tells_nothing_is_believed_by_its_touches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_place", lambda: ("here", "", ""))
    written(tmp_path, started=-1)
    assert is_held(tmp_path / CLAIM, STALE_S)
    age(tmp_path, STALE_S + 50)
    assert not is_held(tmp_path / CLAIM, STALE_S)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock is that of the disk
    assert not is_held(tmp_path / CLAIM, STALE_S)
