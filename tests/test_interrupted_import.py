"""Ctrl-C while torch and timm are being imported ends a program with one line; who uses the package gets to know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Python runs it at its start, wherever it lies on the path. The signal comes when timm is asked for.
CTRL_C = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "timm":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""
CONSOLE = "import sys\nfrom twistnet.__main__ import main\nsys.exit(main())\n"


def interrupted(folder: Path, *words: str, rank: str = "0") -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(CTRL_C)
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "RANK": rank}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=240, env=env)


@pytest.mark.parametrize("program", ["twistnet", "bench"])
def test_a_program_says_it_in_a_line(program: str, tmp_path: Path) -> None:
    found = interrupted(tmp_path, "-m", program, "--help")
    called = "twistnet" if program == "twistnet" else "python -m bench"
    assert (found.returncode, found.stdout, found.stderr) == (130, "", f"{called}: interrupted.\n")


def test_so_does_the_console_command_and_of_several_ranks_the_first(tmp_path: Path) -> None:
    (tmp_path / "twistnet").write_text(CONSOLE)
    for rank, said in (("0", "twistnet: interrupted.\n"), ("1", "")):
        found = interrupted(tmp_path, str(tmp_path / "twistnet"), "--help", rank=rank)
        assert (found.returncode, found.stderr) == (130, said)


def test_who_uses_the_package_is_told_by_the_exception(tmp_path: Path) -> None:
    found = interrupted(tmp_path, "-c", "try:\n    import twistnet\nexcept KeyboardInterrupt:\n    print('told')\n")
    assert (found.returncode, found.stdout) == (0, "told\n")
