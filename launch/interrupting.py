"""Ctrl-C while a program is still being imported, which takes seconds: one line instead of the stack of an import."""

from __future__ import annotations

import os
import sys
from pathlib import Path

EXIT_CODE = 130  # as shells report SIGINT


def is_program(name: str) -> bool:
    """Whether the process was started as this program, by `python -m` or by its console command, and not to use it.

    To be asked while the program's package is being imported: `python -m` writes itself down as the first argument
    only until then.
    """
    return bool(sys.argv) and (sys.argv[0] == "-m" or Path(sys.argv[0]).stem == name)


def interrupted(program: str) -> int:
    """Says so, once for all ranks, and returns the exit code."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{program}: interrupted.", file=sys.stderr)
    return EXIT_CODE
