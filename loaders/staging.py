"""Copies shards from a slow or shared place to a local folder, ahead of the batches that need them.

    begin(epoch, step, ids) -> Need     the loader's first thread, some batches ahead
    Plan                                the batches after it, into the next epoch, as far as the bound goes
    StagingFolder.bring                 a few threads: first what begun batches need, then what the plan names
    Need.wait, decode, Need.close       the batch's shards are there, and stay

No batch keeps a shard while it waits for another: what is there may go until the batch has all. Within a process the
batch that began first goes first, and it fits the bound by itself, so that some batch always comes to its end.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.errors import InputError
from loaders.manifest import FileEntry
from loaders.mapped import Map
from loaders.order import Order
from loaders.sources import Stopped
from loaders.staging_files import StagedFile
from loaders.staging_folder import REFRESH_S, StagingFolder
from loaders.staging_needs import most_at_once
from loaders.staging_plan import Plan

_COPIES = 4  # at once: one stream of an object store does not fill a link
_AGAIN_S = 0.3  # after which a shard that another process copies, or that found no room, is tried again
_POLL_S = 0.1
_JOIN_S = 2.0  # who reads from a server that says nothing ends when it is given up
_CLOSED = "the staging of this set was closed: open it again."

_Ints = npt.NDArray[np.int64]


class _Job(NamedTuple):
    shard: int
    kept: set[int]  # what is needed before it
    urgent: bool


class Need:
    """The shards of a batch that has begun; to be closed, however it ends."""

    def __init__(self, staging: Staging, shards: list[int], stopped: Callable[[], bool]) -> None:
        self.shards, self.stopped = shards, stopped
        self._staging = staging
        self._maps: list[Map] = []

    def wait(self) -> None:
        """Until all of them are there; from then on they stay.

        Raises:
            InputError: where one cannot be had, or nobody waits any more.
        """
        self._maps = self._staging.maps(self)

    def close(self) -> None:
        """They may go."""
        self._maps = []
        self._staging.end(self)


class Staging:
    """Brings the shards of one split in the order in which batches need them.

    Args:
        folder: where to.
        entries: what the manifest says of the shards.
    """

    def __init__(self, folder: StagingFolder, entries: Sequence[FileEntry]) -> None:
        self.folder = folder
        self._entries = entries
        self._places = {entry.name: shard for shard, entry in enumerate(entries)}
        self._here: set[int] = set()  # whole, as far as this process knows
        self.files = [
            StagedFile(
                folder.shard(entry),
                entry.size,
                functools.partial(self._here.__contains__, shard),
                functools.partial(self._arrive, shard),
            )
            for shard, entry in enumerate(entries)
        ]
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        self._needs: list[Need] = []
        self._copying: set[int] = set()
        self._failed: dict[int, InputError] = {}
        self._not_before: dict[int, float] = {}
        self._broken: Exception | None = None
        self._plan: Plan | None = None
        self._marked: dict[int, bool] = {}  # what other processes were told of a shard: that it is needed, or not
        self._tidied = self._refreshed = 0.0

    def follow(self, order: Order, shard_of: _Ints, rank: int, world_size: int) -> None:
        """Says in which order samples will be read.

        Args:
            order: of all ranks' samples.
            shard_of: (N,) the shard of every sample.
            rank: this process's, of `world_size`.
            world_size: processes.

        Raises:
            InputError: where the bound is too small for that order.
        """
        sizes = np.array([entry.size for entry in self._entries], dtype=np.int64)
        needed, bound = most_at_once(order, shard_of, sizes), self.folder.bound
        if needed > bound:
            raise InputError(_too_small(order, needed, int(sizes[np.unique(shard_of)].sum()), bound))
        self._plan = Plan(order, shard_of, rank, world_size)

    def begin(self, epoch: int, step: int, ids: _Ints, stopped: Callable[[], bool]) -> Need:
        """To be called after `follow` for the batches in their order.

        Args:
            epoch: the batch's.
            step: likewise.
            ids: (B,) its samples.
            stopped: whether nobody waits for it any more.

        Raises:
            InputError: where it needs more than the bound, which `follow` may miss in an epoch far ahead.
        """
        assert self._plan
        need = Need(self, self._plan.shards_of(ids), stopped)
        needed = sum(self._entries[shard].size for shard in need.shards)
        if needed > self.folder.bound:
            raise InputError(
                f"batch {step} of epoch {epoch} needs {needed:,} bytes of shards at once where "
                f"{self.folder.bound:,} are allowed: raise --stage_gb to {_gigabytes(needed)}."
            )
        with self._changed:
            self._plan.begin(epoch, step)
            self._add(need)
        return need

    def maps(self, need: Need) -> list[Map]:
        """Of a batch's shards, once all of them are there. Raises as `Need.wait`."""
        while True:
            with self._changed:
                while not self._here.issuperset(need.shards):
                    if self._stop.is_set() or need.stopped():
                        raise InputError(_CLOSED)
                    if self._broken:
                        raise InputError(f"staging has ended ({self._broken!r}): start again.") from self._broken
                    for shard in need.shards:
                        if shard in self._failed:
                            raise InputError(str(self._failed[shard])) from self._failed[shard]
                    self._changed.wait(_POLL_S)
            maps, gone = [], []
            for shard in need.shards:
                try:
                    maps.append(self.files[shard].hold_if_there())
                except FileNotFoundError:
                    gone.append(shard)
                except OSError as error:
                    raise InputError(f"{self.files[shard].path} cannot be read ({error}): remove it.") from error
            if not gone:
                return maps
            with self._changed:
                self._here.difference_update(gone)
                self._changed.notify_all()

    def end(self, need: Need) -> None:
        """A batch needs its shards no more."""
        with self._changed:
            if need in self._needs:
                self._needs.remove(need)
                self._changed.notify_all()

    def stop(self) -> None:
        """Tells the threads to end, as far as a finaliser may."""
        self._stop.set()

    def close(self) -> None:
        """Ends the threads."""
        with self._changed:
            self.stop()
            self._changed.notify_all()
        give_up = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        for file in self.files:
            file.forget(if_idle=False)

    def _arrive(self, shard: int) -> None:
        """Waits for a shard that no batch has announced."""
        if os.getpid() != self._process:
            raise InputError("this set was staged before a fork, which does not copy its threads: open it again.")
        need = Need(self, [shard], lambda: False)
        with self._changed:
            self._here.discard(shard)
            self._add(need)
        try:
            need.wait()
        finally:
            need.close()

    def _add(self, need: Need) -> None:
        self._needs.append(need)
        for shard in need.shards:
            self._failed.pop(shard, None)  # it may have come back
        if not self._threads and not self._stop.is_set():
            self._threads = [
                threading.Thread(target=self._run, name="twistnet-stage", daemon=True) for _ in range(_COPIES)
            ]
            for thread in self._threads:
                thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # who waits for this thread would wait for ever
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                job = self._next_job()
                if job is None:
                    self._changed.wait(_AGAIN_S)
                else:
                    self._copying.add(job.shard)
            self._tidy()
            if job is not None:
                self._do(job)

    def _do(self, job: _Job) -> None:
        entry, came, failure = self._entries[job.shard], False, None
        for shard in set(range(len(self.files))) - job.kept:
            self.files[shard].forget(if_idle=False)
        try:
            kept = {self._entries[shard].name for shard in job.kept}
            came = self.folder.bring(entry, kept, job.urgent, self._stop)
        except Stopped:
            return
        except InputError as error:
            failure = error
        except Exception as error:
            failure = InputError(f"{entry.name} cannot be staged ({type(error).__name__}: {error}): try again.")
        with self._changed:
            self._copying.discard(job.shard)
            while self.folder.removed:
                shard = self._places.get(self.folder.removed.pop(), -1)  # or it is another split's
                if shard >= 0 and not self.files[shard].path.exists():  # else another thread has brought it back
                    self._here.discard(shard)
            if came:
                self._here.add(job.shard)
            elif failure:
                self._failed[job.shard] = failure
            else:
                self._not_before[job.shard] = time.monotonic() + _AGAIN_S
            self._changed.notify_all()

    def _next_job(self) -> _Job | None:
        """The first shard that is not there, of those that are needed first."""
        kept: set[int] = set()
        for need in self._needs:
            kept.update(need.shards)
            for shard in need.shards:
                if self._is_missing(shard):
                    return _Job(shard, kept, urgent=True)
        if not self._plan:
            return None
        planned = self._plan.shards
        kept.update(planned)
        room = self.folder.bound - sum(self._entries[shard].size for shard in kept)
        missing = [shard for shard in planned if self._is_missing(shard)] if room >= 0 else []
        while not missing and (step := self._plan.following()):
            room -= sum(self._entries[shard].size for shard in step.shards if shard not in kept)
            if room < 0:
                return None
            self._plan.add(step)
            kept.update(step.shards)
            missing = [shard for shard in step.shards if self._is_missing(shard)]
        return _Job(missing[0], kept, urgent=False) if missing else None

    def _is_missing(self, shard: int) -> bool:
        if shard in self._here or shard in self._copying or shard in self._failed:
            return False
        return self._not_before.get(shard, 0.0) <= time.monotonic()

    def _tidy(self) -> None:
        """Lets go of what is idle, and tells other processes what is needed."""
        with self._changed:
            now = time.monotonic()
            if now - self._tidied < _AGAIN_S:
                return
            self._tidied = now
            needed = {shard for need in self._needs for shard in need.shards}
            needed.update(self._plan.shards if self._plan else ())
            if now - self._refreshed >= REFRESH_S:
                self._refreshed, self._marked = now, {shard: False for shard in self._marked if shard not in needed}
            marks = {shard: shard in needed for shard in self._here}
            changed = [shard for shard, mark in marks.items() if self._marked.get(shard) != mark]
            self._marked = marks
        for file in self.files:
            file.forget(if_idle=True)
        gone = [shard for shard in changed if not self.folder.mark(self._entries[shard], needed=marks[shard])]
        if gone:
            with self._changed:
                self._here.difference_update(gone)


def _too_small(order: Order, needed: int, whole: int, bound: int) -> str:
    limit = f"a staging folder of {bound / 1e9:,.3f} GB is too small"
    enough = f"{needed:,} bytes (--stage_gb {_gigabytes(needed)})"
    if order.shuffle == "global":
        return (
            f"{limit} for a global shuffle, which needs the whole {whole / 1e9:,.3f} GB at once: allow {enough}, "
            "or take --set shuffle=window."
        )
    return (
        f"{limit} for the shards that a batch may need at once, of {whole / 1e9:,.3f} GB: allow {enough}, or convert "
        "into smaller shards (--shard_size)."
    )


def _gigabytes(size: int) -> float:
    """Of bytes, rounded up to three digits."""
    return -(-size // 10**6) / 1000
