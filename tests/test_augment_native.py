"""The compiled augmentation under sanitizers, and by plain loops."""

from __future__ import annotations

import subprocess
from pathlib import Path

from native_builds import sanitized


def test_no_operation_leaves_its_memory(tmp_path: Path) -> None:
    """Images of all sizes from one pixel on, by both builds: neither reads or writes outside, and both agree."""
    printed = []
    for program in sanitized("augment_fuzz.cpp", tmp_path):
        done = subprocess.run([program, "300"], capture_output=True, text=True, timeout=300)
        assert not done.returncode, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
