"""Checkpoints of a run: copied to the host while training waits, written by a thread while it goes on.

latest.pt   previous.pt   best.pt   epoch-0100.pt ...    what was saved at one moment is one file of several names
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loaders import InputError
from loaders.errors import one_line
from loaders.files import link, move, write_atomically
from twistnet.archives import refuse_swollen
from twistnet.signals import Noted, Stopped
from twistnet.states import wrong_kind

FORMAT = 3
KEYS = (
    *("model", "ema", "buffers", "optimiser", "scaler", "dtype"),
    *("epoch", "step_in_epoch", "best_top1", "best_epoch", "meter"),
    *("recipe", "data", "weights_from", "publish_to"),
)
LATEST, PREVIOUS, BEST = "latest.pt", "previous.pt", "best.pt"
WRITTEN = ".written.pt"  # whole, and not yet under the names that it is for
_BEGINS = b"PK\x03\x04"  # an archive, as torch writes it
_EPOCH = re.compile(r"epoch-([0-9]+)\.pt")
_LOOK_S = 0.2  # between looks at whether a signal has come
_RETRY_S = (5.0, 10.0, 20.0, 40.0, 60.0)  # after a failure; then every minute


def epoch_name(epoch: int) -> str:
    """The name of the checkpoint that is kept for good after an epoch, counted from 1."""
    return f"epoch-{epoch:04d}.pt"


class Checkpoints:
    """Writes the checkpoints of a run, each whole or not at all.

    Where writing fails, as on a full disk, that is told, the files of before stay as they are, and it is tried again
    until it succeeds; only the newest state waits for that, and the best one.

    Args:
        folder: the run's.
        say: told of failures, from a thread.
        rotate: whether latest.pt is worth keeping as previous.pt: it is not where it could not be read.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, rotate: bool = True) -> None:
        self._folder, self._say, self._rotate = folder, say, rotate
        self._changed = threading.Condition()
        self._wanted: dict[str, _Snapshot] = {}  # by the name of a file that is still to be written
        self._writing: _Snapshot | None = None
        self._spare: list[list[Tensor]] = []
        self._failures = 0
        self._reason = ""
        self._defect: BaseException | None = None
        self._closing = False
        self._end: float | None = None  # by `time.monotonic`, until which the last files are waited for
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def save(self, state: Mapping[str, Any], names: Sequence[str]) -> None:
        """Copies a state to the host and has it written under the names; returns when it is copied.

        Args:
            state: tensors and plain values, as `KEYS` name them.
            names: of files in the run's folder; latest.pt among them makes previous.pt of the one before.
        """
        with self._changed:
            self._raise_defect()
            self._end = None
            buffers = self._spare.pop() if self._spare else []
        snapshot = _Snapshot.of({"format": FORMAT, **state}, buffers)
        with self._changed:
            replaced = {self._wanted[name] for name in names if name in self._wanted}
            self._wanted |= dict.fromkeys(names, snapshot)
            for old in replaced:
                self._recycle(old)
            self._changed.notify_all()

    def finish(self, within_s: float, stopping: Noted | None = None) -> None:
        """Returns once everything is written; until `save` is called again, training has come to its end.

        Args:
            within_s: what that may take in seconds.
            stopping: a signal ends the wait where writing fails; while it does not, the file is worth the wait.

        Raises:
            InputError: where it is not written within those seconds.
            Stopped: where a signal ended the wait.
        """
        with self._changed:
            self._end = time.monotonic() + within_s
            while self._wanted and self._defect is None and (left_s := self._end - time.monotonic()) > 0:
                if self._failures and stopping is not None and stopping.signal:
                    go_on = (
                        f"go on with --resume {self._folder / LATEST}" if self._has_latest() else "nothing was saved"
                    )
                    raise Stopped(stopping.signal, f"before {self._unwritten()}: {go_on}")
                self._changed.wait(min(left_s, _LOOK_S))
            self._raise_defect()
            if self._wanted:
                self._reason = self._reason or f"the disk took more than {within_s:.0f} s"
                go_on = (
                    "; the checkpoint of before is whole, go on with --resume auto"
                    if self._has_latest()
                    else ", and start again; there is no checkpoint of before"
                )
                raise InputError(f"{self._unwritten('not ')}: make room or choose another disk{go_on}.")

    def close(self) -> None:
        """Ends the thread, which finishes what it is writing at the moment."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _unwritten(self, negated: str = "") -> str:
        return f"{' and '.join(self._wanted)} of {self._folder} could {negated}be written ({self._reason})"

    def _has_latest(self) -> bool:
        return (self._folder / LATEST).exists()

    def _raise_defect(self) -> None:
        if self._defect is not None:
            raise self._defect

    def _recycle(self, snapshot: _Snapshot) -> None:
        """Keeps the memory of a snapshot that nothing needs any more; the lock is held."""
        if snapshot is not self._writing and snapshot not in self._wanted.values():
            self._spare.append(snapshot.buffers)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closing)
                if self._closing:
                    return
                snapshot = next(iter(self._wanted.values()))
                names = [name for name, wanted in self._wanted.items() if wanted is snapshot]
                self._writing = snapshot
            try:
                self._write(snapshot.state, names)
            except OSError as error:
                self._failed(names, one_line(error.strerror or error))
            except BaseException as error:  # raised where training saves next
                with self._changed:
                    self._defect = error
                    self._changed.notify_all()
                return
            else:
                self._written(snapshot, names)

    def _written(self, snapshot: _Snapshot, names: Sequence[str]) -> None:
        if self._failures:
            self._say(f"{' and '.join(names)} is written after all.")
        with self._changed:
            self._failures, self._reason, self._writing = 0, "", None
            for name in names:
                if self._wanted.get(name) is snapshot:
                    del self._wanted[name]
            self._recycle(snapshot)
            self._changed.notify_all()

    def _failed(self, names: Sequence[str], reason: str) -> None:
        wait_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        goes_on = "training goes on, " if self._end is None else ""
        stays = "the checkpoint of before stays, and " if self._has_latest() else ""
        left = "" if self._end is None else f", for {max(0.0, self._end - time.monotonic()):.0f} s more at most"
        self._say(
            f"[Warning] {' and '.join(names)} could not be written ({reason}): {goes_on}{stays}it is tried again in "
            f"{wait_s:.0f} s{left}."
        )
        with self._changed:
            self._failures, self._reason, self._writing = self._failures + 1, reason, None
            self._changed.wait_for(lambda: self._closing, timeout=wait_s)

    def _write(self, state: Mapping[str, Any], names: Sequence[str]) -> None:
        written = self._folder / WRITTEN
        write_atomically(written, lambda file: torch.save(state, file))
        *others, last = sorted(names, key=lambda name: name == LATEST)  # the latest last: then all others are there
        for name in others:
            link(written, self._folder / name)
        if last == LATEST:
            if self._rotate and (self._folder / LATEST).exists():
                link(self._folder / LATEST, self._folder / PREVIOUS)
            self._rotate = True
        move(written, self._folder / last)


class _Snapshot:
    """A state on the host that nothing changes any more."""

    def __init__(self, state: dict[str, Any], buffers: list[Tensor]) -> None:
        self.state, self.buffers = state, buffers

    @classmethod
    def of(cls, state: Mapping[str, Any], buffers: list[Tensor]) -> _Snapshot:
        """A copy, in the memory of `buffers` as far as shapes agree; waits for the device once, at the end."""
        used: list[Tensor] = []
        spare = iter(buffers)
        devices: set[torch.device] = set()

        def copied(value: Any) -> Any:
            if isinstance(value, Tensor):
                into = next(spare, None)
                if into is None or not _are_alike(into, value):
                    # Locked memory, which a card writes while the host goes on.
                    into = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
                used.append(into)
                if value.is_cuda:
                    devices.add(value.device)
                return into.copy_(value.detach(), non_blocking=True)
            if isinstance(value, Mapping):
                return {key: copied(each) for key, each in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)([copied(each) for each in value])
            return value

        found = copied(state)
        for device in devices:
            torch.cuda.synchronize(device)
        return cls(found, used)


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


class _Unusable(Exception):
    """What is wrong with a file, and what to do about it where it was named by the user; no full stops."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU, holding every tensor to its checksum and running none of its code.

    Raises:
        InputError: where the file is missing, torn or none of ours.
    """
    try:
        return _load(path)
    except _Unusable as error:
        raise InputError(f"{error.what}: {error.advice}.") from error.__cause__


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _Unusable(f"checkpoint {path} does not exist", "name a latest.pt, or start without --resume")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_swollen(path, archive)
            damaged = archive.testzip()  # torch writes CRC-32s, and does not look at them
        if damaged is not None:
            raise ValueError(f"{damaged} is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A torn or foreign file fails in many ways: BadZipFile, UnpicklingError, RuntimeError, EOFError, ...
    except Exception as error:
        raise _Unusable(f"{path} {_damage(path, error)}", "name another, or auto") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found is None:
        raise _Unusable(f"{path} is no checkpoint of a run", "name a latest.pt; weights go to finetune --weights")
    if type(found) is not int or found != FORMAT:
        found = one_line(repr(found), 40)
        raise _Unusable(f"checkpoint {path} has format {found}, this version reads {FORMAT}", "name a run's latest.pt")
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise _Unusable(f"checkpoint {path} lacks {', '.join(missing)}", "take an older one, or start a new run")
    if wrong := wrong_kind(state):
        raise _Unusable(f"checkpoint {path} holds {wrong}", "take an older one, or start a new run")
    return dict(state)


def _damage(path: Path, error: Exception) -> str:
    """What ails a file that raised the error: an archive has its list of contents at its end."""
    if not isinstance(error, OSError):
        if path.stat().st_size == 0:
            return "is empty"
        with path.open("rb") as file:
            begins_as_one = file.read(len(_BEGINS)) == _BEGINS
        if begins_as_one and not zipfile.is_zipfile(path):
            return "is cut short"
    return f"cannot be read as a checkpoint ({type(error).__name__}: {one_line(error, 120)})"


def newest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be read, and what it holds; None where there is none at all.

    Args:
        folder: the run's.
        say: told of each that cannot be read.

    Raises:
        InputError: where there are some, and none can be read.
    """
    failed: _Unusable | None = None
    for path in _newest_first(folder):
        try:
            return path, _load(path)
        except _Unusable as error:
            failed = error
            say(f"[Warning] Skipped: {error.what}.")
    if failed is not None:
        raise InputError(f"no checkpoint of {folder} can be read: start a new run in another folder.") from failed
    return None


def readable(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The checkpoints of a run that can be read, and what they hold."""
    for path in _newest_first(folder):
        with contextlib.suppress(_Unusable):
            yield path, _load(path)


def _newest_first(folder: Path) -> Iterator[Path]:
    kept = sorted((path for path in folder.glob("epoch-*.pt") if _EPOCH.fullmatch(path.name)), reverse=True)
    for path in (folder / LATEST, folder / PREVIOUS, *kept, folder / BEST):
        if path.is_file():
            yield path
