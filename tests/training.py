"""The training commands at their smallest, for tests of what they write, print and refuse.

A test module takes the fixture by `pytest_plugins = ("training",)`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from twistnet.__main__ import main

FOLDS = {
    **{"train1": range(8), "val1": range(8, 12), "test1": range(12, 17)},
    **{"train2": range(9, 17), "val2": range(5, 9), "test2": range(5)},
}


def call(command: str, *flags: str) -> int:
    """Runs a command; of a flag that is given twice, the later counts."""
    values = dict(flag.partition("=")[::2] for flag in flags)
    return main([command, *(f"{name}={value}" if value else name for name, value in values.items())])


TINY = ("--device=cpu", "--workers=1", "--size=32", "--batch_size=16", "--epochs=2", "--model=test_resnet")


def pretrain(tree: Path | str, *flags: str) -> int:
    return call("pretrain", f"--data_dir={tree}", "--recipe=demo", *TINY, *flags)


def finetune(dtd: Path, *flags: str) -> int:
    return call("finetune", f"--data_dir={dtd}", "--recipe=demo_dtd", *TINY, *flags)


@pytest.fixture(scope="session")
def dtd(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree's images in DTD's layout, with two folds."""
    root = tmp_path_factory.mktemp("dtd")
    shutil.copytree(tree / "train", root / "images")
    (root / "labels").mkdir()
    for split, indices in FOLDS.items():
        lines = [f"{name}/{name}_{index}.JPEG" for name in ("astronaut", "cat", "coffee") for index in indices]
        (root / "labels" / f"{split}.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def run(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in ./checkpoints of a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree) == 0
    return tmp_path / "checkpoints"
