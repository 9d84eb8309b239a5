"""`python -m twistnet`, `torchrun -m twistnet` and the console command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from launch.interrupting import interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: what follows the program's name; None takes it from the process.

    Returns:
        The exit code.
    """
    try:
        from twistnet.cli import run
    except ImportError as error:
        print(f"error: the command line cannot start ({error}): pip install twistnet again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted("twistnet")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["bench"]:
        from twistnet.commands.bench import bench

        return bench(words[1:])
    return run(words)


if __name__ == "__main__":
    sys.exit(main())
