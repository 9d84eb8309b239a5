"""`twistnet bench NAME`: the suite's commands, as `python -m bench NAME` calls them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.commands import ABOUT, COMMANDS
from twistnet.cli import run


def bench(argv: Sequence[str]) -> int:
    """Runs one of them; returns the exit code.

    Args:
        argv: what follows `twistnet bench`.
    """
    return run(argv, COMMANDS, "twistnet bench", ABOUT)
