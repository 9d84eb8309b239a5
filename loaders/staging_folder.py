"""The folder that shards are staged in, which many processes and runs may share.

<folder>/.lock                                  held while room is made
<folder>/<set>/manifest.json, train.index.npy   copied when the set is opened; <set> is of the manifest's checksum
<folder>/<set>/.lock                            held while they are
<folder>/<set>/shards/train-000003.tar          a whole shard; shared lock: in use
<folder>/<set>/shards/.train-000003.tar.*.tmp   one that is being copied, from its beginning as long as it will be
<folder>/<set>/shards/.train-000003.tar.whole   that it was held to its checksum; changed when it was last needed
<folder>/<set>/shards/.train-000003.tar.lock    held by who copies it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from loaders.errors import InputError, one_line
from loaders.files import clear_unfinished, take_lock, write_atomically
from loaders.manifest import NAME, FileEntry
from loaders.sources import Source, Stopped, Unwritable

REFRESH_S = 10.0  # what is needed soon is marked so often
_FORGOTTEN_S = 30.0  # after that nobody needs what was not marked
_FREE = 0.9  # of a disk's free space is used unless a bound is given
_POLL_S = 0.02
_SHARDS = "shards"
_SET = re.compile("[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\.([^.].*)\.[0-9a-f]{32}\.tmp")  # of shards, not of what is hidden


class _Full(Exception):
    """There is no room: all that is there is needed sooner, or in use."""


@dataclass(frozen=True, slots=True, order=True)
class _Staged:
    """A whole shard of any set."""

    needed_at: float
    path: Path
    size: int


class StagingFolder:
    """What is staged of one set, within a bound on the shards of all sets there.

    Args:
        folder: the staging folder; made where it is missing.
        manifest: the bytes of the set's manifest.
        source: where its files are copied from.
        bound: bytes that shards may take; by default nine tenths of what they take and what is free.
        verify: whether shards that earlier runs have left are held to their checksums again.

    Raises:
        InputError: where the folder cannot be used.
    """

    def __init__(self, folder: Path, manifest: bytes, source: Source, bound: int | None, verify: bool) -> None:
        self.root = Path(os.path.abspath(folder))
        self.path = self.root / hashlib.sha256(manifest).hexdigest()[:32]
        self._shards, self._source, self._verify = self.path / _SHARDS, source, verify
        self._seen_whole: set[str] = set()  # by this process
        self.removed: list[str] = []  # names of this set's shards that made room, for who wants to know
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            with take_lock(self.root / ".lock", wait=True):
                staged, coming = self._look()
            if bound is None:
                taken = sum(each.size for each in staged) + sum(coming.values())
                bound = int(_FREE * (taken + shutil.disk_usage(self.root).free))
            if not (self.path / NAME).is_file():
                write_atomically(self.path / NAME, lambda file: file.write(manifest))
        except OSError as error:
            raise InputError(
                f"{folder} cannot be staged in ({one_line(error)}): name a folder on a local disk that can be written."
            ) from error
        self.bound = bound

    def shard(self, entry: FileEntry) -> Path:
        """Where a shard is, or will be."""
        return self._shards / entry.name

    def keep(self, entry: FileEntry) -> None:
        """Copies a file that is needed whole and always, as an index.

        Raises:
            InputError: where it cannot be had.
        """
        path, never = self.path / entry.name, threading.Event()
        with self._explained(entry), _lock(self.path / ".lock", never):
            if not (path.exists() and _is(path, entry)):
                clear_unfinished(self.path, lambda name: name == entry.name)
                write_atomically(path, lambda file: self._source.copy(entry, file, never))

    def bring(self, entry: FileEntry, kept: Collection[str], urgent: bool, stop: threading.Event) -> bool:
        """Copies a shard, unless it is there; whether it is now.

        It is not where another thread or process copies it just now, or where there is no room.

        Args:
            entry: what the manifest says of it.
            kept: names of shards of this set that must stay; all others may go, the least recently needed one first.
            urgent: also those that other processes have marked as needed soon.
            stop: ends it.

        Raises:
            InputError: where it cannot be had.
            Stopped: where `stop` was set.
        """
        path = self.shard(entry)
        with _not_copied(path) as free, self._explained(entry):
            if not free:
                return False
            try:
                self._bring(path, entry, kept, urgent, stop)
            except (_Full, FileNotFoundError):  # or another process has removed it already
                return False
        return True

    def _bring(self, path: Path, entry: FileEntry, kept: Collection[str], urgent: bool, stop: threading.Event) -> None:
        if self._is_recorded(path, entry):
            return
        if not (path.exists() and _is(path, entry)):
            path.unlink(missing_ok=True)
            clear_unfinished(self._shards, lambda name: name in (entry.name, _record_of(path).name))
            write_atomically(path, lambda file: self._fill(file, entry, kept, urgent, stop))
        state = json.dumps(_state(path, entry)).encode()
        write_atomically(_record_of(path), lambda file: file.write(state))
        self._seen_whole.add(entry.name)

    def mark(self, entry: FileEntry, *, needed: bool) -> bool:
        """Tells other processes that a shard is needed now or soon, or no more; whether it is still there."""
        at = time.time() - (0.0 if needed else _FORGOTTEN_S)
        try:
            os.utime(_record_of(self.shard(entry)), (at, at))
        except OSError:
            return False
        return True

    def _fill(
        self, file: BinaryIO, entry: FileEntry, kept: Collection[str], urgent: bool, stop: threading.Event
    ) -> None:
        with _lock(self.root / ".lock", stop):
            self._make_room(entry.size, kept, urgent)
            file.truncate(entry.size)  # from here on all see how much it takes
        self._source.copy(entry, file, stop)

    def _make_room(self, size: int, kept: Collection[str], urgent: bool) -> None:
        staged, coming = self._look()
        over = sum(each.size for each in staged) + sum(coming.values()) + size - self.bound
        if over > 0:
            over -= sum(coming[path] for path in coming if _remove_left(path))
        forgotten = time.time() - _FORGOTTEN_S
        for each in sorted(staged):
            if over <= 0:
                return
            mine = each.path.parent == self._shards
            if mine and each.path.name in kept:
                continue
            if (urgent or each.needed_at <= forgotten) and _remove(each.path):
                over -= each.size
                if mine:
                    self.removed.append(each.path.name)
        if over > 0:
            raise _Full

    def _look(self) -> tuple[list[_Staged], dict[Path, int]]:
        """The whole shards of all sets, and the sizes of those that are being copied."""
        staged: dict[Path, _Staged] = {}
        coming: dict[Path, int] = {}
        sets = [path / _SHARDS for path in self.root.iterdir() if _SET.fullmatch(path.name)]
        for path in (path for folder in sets if folder.is_dir() for path in folder.iterdir()):
            named = _TEMPORARY.fullmatch(path.name)
            if named:
                try:
                    coming[path] = path.stat().st_size
                    continue
                except FileNotFoundError:  # it has become whole since the folder was listed
                    path = path.with_name(named[1])
            if not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = path.stat()
                    needed_at = status.st_mtime
                    with contextlib.suppress(FileNotFoundError):
                        needed_at = _record_of(path).stat().st_mtime
                    staged[path] = _Staged(needed_at, path, status.st_size)
        return list(staged.values()), coming

    def _is_recorded(self, path: Path, entry: FileEntry) -> bool:
        """Whether it was held to its checksum, and has not changed since."""
        if self._verify and entry.name not in self._seen_whole:
            return False
        try:
            recorded: object = json.loads(_record_of(path).read_text())
            return recorded == _state(path, entry)
        except (OSError, ValueError):
            return False

    @contextlib.contextmanager
    def _explained(self, entry: FileEntry) -> Iterator[None]:
        try:
            yield
        except (OSError, Unwritable) as error:
            raise InputError(
                f"{entry.name} cannot be written to {self.path} ({one_line(error)}): make room there, or lower the "
                "bound on the staging folder."
            ) from error


def _lock(path: Path, stop: threading.Event) -> TextIO:
    """The lock as soon as it is free; unlike waiting for it in the system, this can be stopped."""
    while True:
        try:
            return take_lock(path)
        except BlockingIOError:
            if stop.wait(_POLL_S):
                raise Stopped from None


def _lock_of(shard: Path) -> Path:
    return shard.with_name(f".{shard.name}.lock")


def _record_of(shard: Path) -> Path:
    return shard.with_name(f".{shard.name}.whole")


def _state(path: Path, entry: FileEntry) -> dict[str, object]:
    status = path.stat()
    return {"size": status.st_size, "changed_ns": status.st_mtime_ns, "sha256": entry.sha256}


def _is(path: Path, entry: FileEntry) -> bool:
    """Whether a file is what the manifest says."""
    if path.stat().st_size != entry.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == entry.sha256


def _remove(shard: Path) -> bool:
    """Removes a shard, unless any process uses it or copies it anew; whether it is gone."""
    with _not_copied(shard) as free:
        if not free:
            return False
        try:
            with shard.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shard.unlink()
                _record_of(shard).unlink(missing_ok=True)
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return True


def _remove_left(temporary: Path) -> bool:
    """Removes an unfinished copy, unless a process is at it; whether it is gone."""
    named = _TEMPORARY.fullmatch(temporary.name)
    assert named
    with _not_copied(temporary.with_name(named[1])) as free:
        if free:
            temporary.unlink(missing_ok=True)
    return free


@contextlib.contextmanager
def _not_copied(shard: Path) -> Iterator[bool]:
    """Whether nobody copies a shard, and then keeps others from it."""
    lock = _lock_of(shard)
    try:
        held = take_lock(lock)
    except BlockingIOError:
        yield False
        return
    with held:
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)
