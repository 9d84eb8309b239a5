"""Triton's kernels without a card: in its interpreter, and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_interpreted(script: str) -> str:
    """What a test module prints as a script, in a process of its own: Triton must be told before it is imported."""
    here = Path(script)
    done = subprocess.run(
        [sys.executable, here],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(here.parent.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.stdout + done.stderr
