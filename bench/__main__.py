"""`python -m bench COMMAND`."""

from __future__ import annotations

import sys

from bench.commands import ABOUT, COMMANDS
from twistnet.cli import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], COMMANDS, "python -m bench", ABOUT))
