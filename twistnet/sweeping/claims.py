"""Whose a piece of work is, by files alone: locks may be missing, or lie, on disks that several machines share.

    claim.json            the holder; touched again and again while it lives
    claim.json.<token>    who is about to take the holder of that token over

A claim appears whole or not at all, by a hard link, and to exactly one of those who try. One that is left over is
replaced by exactly one, too: whoever wants it first claims the right to replace this very holder, whose token never
comes again, and looks once more whether it is still there. As with every lease, a holder that stood still for longer
than others wait has lost its claim: it learns so by its next touch, and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLAIM = "claim.json"
BEATS = 20  # touches in the time after which others take a claim for left over
LONGEST_BEAT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that holds a claim.

    Attributes:
        token: of this claim alone.
        host: the machine's name.
        boot: of the machine's present start; empty where the system does not tell.
        namespace: of process numbers, which containers have of their own.
        pid: number of the process.
        started: when it began, in the kernel's ticks: the number alone may be another's by now.
        since: of the claim, seconds since 1970 by the holder's clock.
    """

    token: str
    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    since: float

    @classmethod
    def here(cls) -> Holder:
        """This process, with a token of its own."""
        host, boot, namespace = _place()
        pid = os.getpid()
        return cls(
            token=uuid.uuid4().hex,
            host=host,
            boot=boot,
            namespace=namespace,
            pid=pid,
            started=_started(pid) or 0,
            since=time.time(),
        )

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None where it cannot be seen from here."""
        if not self.boot or (self.host, self.boot, self.namespace) != _place():
            return None
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claim:
    """A claim of this process, kept until `release`.

    Args:
        path: the claim's file.
        holder: this process.
        stale_s: seconds without a touch after which others take it for left over.
        lost: called, from a thread, where another process has done so, or the file was removed.
    """

    def __init__(self, path: Path, holder: Holder, stale_s: float, lost: Callable[[], object]) -> None:
        self.path, self.holder = path, holder
        self._lost = lost
        self._closing = threading.Event()
        self._beat_s = min(LONGEST_BEAT_S, stale_s / BEATS)
        self._thread = threading.Thread(target=self._keep, name="claim", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Lets others take it, and clears what killed ones have left beside it."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if not self._is_ours():
            return
        for left in self.path.parent.glob(f"{self.path.name}.*"):
            left.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        found = look(self.path)
        return found is not None and found.token == self.holder.token

    def _keep(self) -> None:
        while not self._closing.wait(self._beat_s):
            try:
                if not self._is_ours():
                    self._lost()
                    return
                os.utime(self.path)
            except OSError:  # a disk that is away for a moment; the next touch tells
                continue


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A claim's file as another process finds it.

    Attributes:
        token: the holder's; of the file itself where it is torn.
        holder: None where the file is torn.
        touched: when the file was last touched, by the clock of its disk.
    """

    token: str
    holder: Holder | None
    touched: float

    def is_left_over(self, folder: Path, stale_s: float) -> bool:
        """Whether its holder has ended: seen on this machine, believed of another after `stale_s` without a touch."""
        gone = self.holder.is_gone() if self.holder else None
        return disk_time(folder) - self.touched > stale_s if gone is None else gone


def take(path: Path, stale_s: float, lost: Callable[[], object]) -> Claim | None:
    """Claims for this process what nobody holds; None where a living process does.

    Args:
        path: the claim's file, in a folder that is there.
        stale_s: seconds without a touch after which the holder on another machine counts as gone.
        lost: called, from a thread, where the claim was lost.

    Raises:
        OSError: the file cannot be written.
    """
    holder = Holder.here()
    return Claim(path, holder, stale_s, lost) if _taken(path, holder, stale_s) else None


def look(path: Path) -> Seen | None:
    """What a claim's file says; None where there is none."""
    try:
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        holder = Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Seen(token=f"{status.st_ino:x}-{status.st_mtime_ns:x}", holder=None, touched=status.st_mtime)
    return Seen(token=holder.token, holder=holder, touched=status.st_mtime)


def is_held(path: Path, stale_s: float) -> Holder | None:
    """The living holder of a claim; None where there is none."""
    found = look(path)
    if found is None or found.holder is None or found.is_left_over(path.parent, stale_s):
        return None
    return found.holder


def _taken(path: Path, holder: Holder, stale_s: float) -> bool:
    while not _create(path, holder):
        found = look(path)
        if found is None:
            continue  # released meanwhile
        if not found.is_left_over(path.parent, stale_s):
            return False
        # By the claim's own name, however deep: tokens are unique, and names of files have an end.
        right = path.parent / f"{CLAIM}.{found.token}"
        if not _taken(right, dataclasses.replace(holder, token=uuid.uuid4().hex), stale_s):
            return False
        try:
            still = look(path)
            if still is None or still.token != found.token:
                continue
            os.replace(_written(path, holder), path)
            return True
        finally:
            right.unlink(missing_ok=True)
    return True


def _create(path: Path, holder: Holder) -> bool:
    """Whether the file is this process's, which it is not where there was one."""
    new = _written(path, holder)
    try:
        os.link(new, path)
        return True
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(new).st_nlink == 2  # NFS may have made the link and lost the answer
        return False
    except FileNotFoundError:
        return False  # cleared by one that has released just now
    except OSError:  # a disk without links
        try:
            with path.open("xb") as file:
                file.write(new.read_bytes())
            return True
        except FileExistsError:
            return False
    finally:
        new.unlink(missing_ok=True)


def _written(path: Path, holder: Holder) -> Path:
    """A file with the holder beside the claim, still under a name that means nothing."""
    new = path.parent / f"{CLAIM}.{holder.token}.{uuid.uuid4().hex}"
    new.write_text(json.dumps(dataclasses.asdict(holder)) + "\n")
    return new


def disk_time(folder: Path) -> float:
    """Seconds since 1970 by the clock that stamps the folder's files: a server's, which may differ from ours."""
    probe = folder / f"{CLAIM}.{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except FileNotFoundError:  # cleared by one that has released just now
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


@functools.cache
def _place() -> tuple[str, str, str]:
    """This machine, its present start and the namespace of process numbers; parts that are not told are empty."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return socket.gethostname(), boot, namespace


def _started(pid: int) -> int | None:
    """When a process of this machine began, in ticks since the machine's start; None where it has ended."""
    try:
        fields = Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])  # fields 3 and 22 of proc(5)
