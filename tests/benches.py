"""The bench's command line with rows in a folder of the test's own.

A test module takes the fixture by `pytest_plugins = ("benches",)`, and all of its tests by
`pytestmark = pytest.mark.usefixtures("results")`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import rows
from bench.commands import COMMANDS
from twistnet.cli import run


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows go, which is not there yet."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def bench(*argv: str) -> int:
    return run(argv, COMMANDS, "python -m bench")
