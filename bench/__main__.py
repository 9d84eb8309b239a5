"""`python -m bench COMMAND`."""

from __future__ import annotations

import sys

from launch.interrupting import interrupted

if __name__ == "__main__":
    try:
        from bench.commands import ABOUT, COMMANDS
        from twistnet.cli import run
    except KeyboardInterrupt:  # torch and timm take seconds
        sys.exit(interrupted("python -m bench"))
    sys.exit(run(sys.argv[1:], COMMANDS, "python -m bench", ABOUT))
