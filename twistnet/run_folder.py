"""A run is a folder that says all: what was asked for, what it ran on, what happened, and what came of it.

recipe.json   env.json   log.jsonl   checkpoints   <model>_<data>.pt   .safetensors   curves.png
result.json   predictions.npz   of fine-tuning
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from loaders import InputError
from loaders.errors import one_line
from loaders.files import clear_unfinished, take_lock, write_atomically
from twistnet.checkpoints import BEST, LATEST, WRITTEN
from twistnet.result import RESULT

_BAD_STEP: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("step", "epoch", "place"), (int,)),
    **{"ids": (list,), "data_dir": (str,), "stage": (str, type(None))},
}


def _above_the_bar(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


class Lines:
    """A file that grows by whole lines; what a full disk refuses is kept, and written with the next line.

    Args:
        path: the file.
        say: told once where it cannot be written, and once where it was after all.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._waiting: list[str] = []

    def add(self, line: str) -> None:
        """Adds a line, now or later."""
        self._waiting.append(line)
        if reason := self._write():
            if len(self._waiting) == 1:
                self._say(
                    f"[Warning] {self._path.name} could not be written ({reason}): training goes on, and its rows are "
                    "kept and written with the next one."
                )
        elif len(self._waiting) > 1:
            self._say(f"{self._path.name} is written after all.")
        if not reason:
            self._waiting = []

    def finish(self) -> None:
        """Tries what is still waiting once more, and tells what stays lost."""
        if self._waiting and (reason := self._write()):
            self._say(f"[Warning] the last {len(self._waiting)} rows of {self._path} are lost ({reason}).")
        self._waiting = []

    def _write(self) -> str:
        """Writes all that waits, or nothing of it; why not."""
        text = "".join(f"{line}\n" for line in self._waiting).encode()
        try:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                size = os.fstat(file).st_size
                torn = size and os.pread(file, 1, size - 1) != b"\n"  # by a kill or a power cut
                left = memoryview(b"\n" * torn + text)
                try:
                    while left:
                        left = left[os.write(file, left) :]  # of a disk that has little room it may take a part
                except OSError:
                    os.ftruncate(file, size)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            return one_line(error.strerror or error)
        return ""


class RunFolder:
    """Writes a run's files, each whole or not at all; the log grows by whole lines.

    Args:
        path: the folder; `make` makes it.
        say: told of rows that cannot be written.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = _above_the_bar) -> None:
        self.path = path
        self._lock: TextIO | None = None
        self._log, self._bad_steps = Lines(self.log, say), Lines(self.bad_steps, say)

    def make(self) -> None:
        """Makes the folder, keeps others from writing there, and clears what a killed process has left half-written.

        Raises:
            InputError: where it cannot be made, or another process writes there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.path / ".lock")
        except BlockingIOError as error:
            raise InputError(f"another process is training into {self.path}: wait for it, or end it first.") from error
        except OSError as error:
            raise InputError(f"run folder {self.path} cannot be made ({error.strerror}): choose another.") from error
        self.clear()

    def clear(self) -> None:
        """Removes what was not finished."""
        clear_unfinished(self.path)
        (self.path / WRITTEN).unlink(missing_ok=True)

    def release(self) -> None:
        """Lets other processes write here, after a last attempt at rows that a full disk has refused."""
        self._log.finish()
        self._bad_steps.finish()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def latest(self) -> Path:
        """The checkpoint to go on from."""
        return self.path / LATEST

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.path / BEST

    @property
    def log(self) -> Path:
        """A JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def result(self) -> Path:
        """What fine-tuning came to; the last file that it writes."""
        return self.path / RESULT

    def refuse_to_overwrite(self) -> None:
        """Raises InputError where the folder holds a run that has come to a checkpoint, or a probe."""
        if self.result.exists() and not self.latest.exists():
            raise InputError(f"{self.path} holds a probe already ({self.result.name}): choose another folder.")
        if self.latest.exists():
            raise InputError(
                f"{self.path} holds a run already ({self.latest.name}): go on with --resume {self.latest}, or choose "
                "another folder."
            )

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes one of the run's JSON files."""
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / name, lambda file: file.write(text.encode()))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the log; one that cannot be written is told, and written with the next."""
        self._log.add(json.dumps(row, allow_nan=False))

    @property
    def bad_steps(self) -> Path:
        """The steps without a finite gradient, a JSON object a line.

        It holds step, epoch and place in it, all from 1, the ids of the batch, and where the data are: data_dir, stage.
        """
        return self.path / "bad_steps.jsonl"

    def append_bad_step(self, row: Mapping[str, Any]) -> None:
        """Notes a step that was skipped, like `append`."""
        self._bad_steps.add(json.dumps(row))

    def noted_bad_steps(self) -> list[dict[str, Any]]:
        """The steps that were skipped, without a line that a kill or a power cut has torn.

        Raises:
            InputError: where there are none, or a line is none of a run's.
        """
        try:
            lines = self.bad_steps.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            raise InputError(f"{self.path} holds no {self.bad_steps.name}: no step of it was skipped.") from None
        rows: list[dict[str, Any]] = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if not isinstance(row, dict) or any(
                name not in row or type(row[name]) not in kinds for name, kinds in _BAD_STEP.items()
            ):
                raise InputError(
                    f"{self.bad_steps} has a line {line[:60]!r}, which no run writes: a line holds "
                    f"{', '.join(_BAD_STEP)}."
                )
            rows.append(row)
        if not rows:
            raise InputError(f"{self.bad_steps} holds no whole line: no step of it is known.")
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """The log's rows, up to the first line that a kill or a power cut has torn."""
        rows: list[dict[str, Any]] = []
        if self.log.exists():
            for line in self.log.read_text(errors="replace").splitlines():
                try:
                    rows.append(dict(json.loads(line)))
                except (ValueError, TypeError):
                    break
        return rows

    def rewind_log(self, step: int) -> None:
        """Drops the rows of steps after `step`, which a resumed run takes again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.log, lambda file: file.write(text.encode()))
