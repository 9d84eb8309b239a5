"""What a run prints goes into its folder, where it is looked for when something went wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

# How a line begins that ends the process on the spot: nothing else would tell of it.
_ENDING = ("error: ", "Ended at once")


class _Errors:
    """The file, and the terminal too for what nobody may miss."""

    def __init__(self, file: TextIO, terminal: TextIO) -> None:
        self._file, self._terminal = file, terminal

    def write(self, text: str) -> int:
        if text.startswith(_ENDING):
            self._terminal.write(text)
            self._terminal.flush()
        return self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def isatty(self) -> bool:
        return False


@contextmanager
def printed_into(path: Path) -> Iterator[None]:
    """Appends what is printed in the block to a file.

    Args:
        path: the file.
    """
    with path.open("a", buffering=1, errors="backslashreplace") as file:
        errors: TextIO = _Errors(file, sys.stderr)  # type: ignore[assignment]
        with redirect_stdout(file), redirect_stderr(errors):
            yield
