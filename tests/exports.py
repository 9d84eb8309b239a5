"""A fine-tuned run and its export at their smallest, for tests of what is shared.

A test module takes the fixtures by `pytest_plugins = ("training", "exports")`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from training import finetune

from twistnet.__main__ import main


@pytest.fixture(scope="session")
def tuned(dtd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on fold 1, from random weights."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    assert finetune(dtd, "--seed=42", "--epochs=4", "--weights=none", f"--run_dir={folder}") == 0
    return folder


@pytest.fixture(scope="session")
def probed(dtd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a linear probe on fold 1, of random features."""
    folder = tmp_path_factory.mktemp("runs") / "probed"
    assert finetune(dtd, "--seed=42", "--tune=probe", "--weights=none", f"--run_dir={folder}") == 0
    return folder


@pytest.fixture(scope="session")
def exported(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    folder = tmp_path_factory.mktemp("exports") / "exported"
    assert main(["export", f"--run_dir={tuned}", f"--out={folder}", "--license=mit"]) == 0
    return folder
