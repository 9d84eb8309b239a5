"""A run is a folder that says all: what was asked for, what it ran on, what happened, and what came of it.

recipe.json   env.json   log.jsonl   checkpoints   <model>_<data>.pt   .safetensors   curves.png
result.json   predictions.npz   of fine-tuning
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from loaders import InputError
from loaders.files import clear_unfinished, take_lock, write_atomically
from twistnet.checkpoints import BEST, LATEST, WRITTEN


class RunFolder:
    """Writes a run's files, each whole or not at all; the log grows by whole lines.

    Args:
        path: the folder; `make` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

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
        """Lets other processes write here."""
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
        return self.path / "result.json"

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
        """Adds a row to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    @property
    def bad_steps(self) -> Path:
        """The steps without a finite gradient, a JSON object a line.

        It holds step, epoch and place in it, all from 1, the ids of the batch, and where the data are: data_dir, stage.
        """
        return self.path / "bad_steps.jsonl"

    def append_bad_step(self, row: Mapping[str, Any]) -> None:
        """Notes a step that was skipped."""
        with self.bad_steps.open("a") as file:
            file.write(json.dumps(row) + "\n")

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
