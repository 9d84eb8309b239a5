"""`python -m twistnet`, `torchrun -m twistnet` and the console command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from twistnet.cli import run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: what follows the program's name; None takes it from the process.

    Returns:
        The exit code.
    """
    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
