"""Imports point one way, packages say what they are, and files stay short enough to be read."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("twistnet", "loaders", "convert", "bench", "launch")
MAX_LINES = 400
# What each may import besides itself. Only the commands, where everything meets, may import all.
ALLOWED = {
    "loaders": (),
    "convert": ("loaders", "launch.version"),
    "twistnet": ("loaders", "launch"),
    "bench": ("loaders", "twistnet", "convert", "launch.version", "launch.interrupting"),
    "launch": (),
    "twistnet/commands": PACKAGES,
}


def files_of(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(source: str, package: str) -> Iterator[str]:
    """The modules that a file imports anywhere in it; `from a import b` counts as a.b, which may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or "" if not node.level else f"{package}.{node.module or ''}"
            yield from (f"{module}.{alias.name}" for alias in node.names)


def strangers(source: str, name: str) -> list[str]:
    """What a file of this name may not import."""
    package = name.split("/")[0]
    place = "twistnet/commands" if name.startswith("twistnet/commands/") else package
    allowed = (package, *ALLOWED[place])
    return [
        module
        for module in imported(source, package)
        if module.split(".")[0] in PACKAGES and not any(f"{module}.".startswith(f"{item}.") for item in allowed)
    ]


@pytest.mark.parametrize("path", files_of(*PACKAGES), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert strangers(path.read_text(), name_of(path)) == []


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("loaders/tree.py", "import twistnet", ["twistnet"]),
        ("loaders/tree.py", "def f():\n    from launch import version", ["launch.version"]),
        ("loaders/tree.py", "import loaders_of_others, loaders.order\nfrom . import tree", []),
        ("convert/shards.py", "from launch.version import VERSION\nfrom loaders import InputError", []),
        ("convert/shards.py", "from launch import version, ranks", ["launch.ranks"]),
        ("twistnet/train.py", "import bench.table", ["bench.table"]),
        ("twistnet/commands/convert.py", "import bench.table, convert, launch.slurm", []),
        ("launch/slurm.py", "from loaders.errors import InputError", ["loaders.errors.InputError"]),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, found: list[str]) -> None:
    assert strangers(source, name) == found


def test_launch_imports_no_torch() -> None:
    modules = [name_of(path).removesuffix(".py").replace("/", ".") for path in files_of("launch")]
    code = f"import sys\nfor name in {modules}: __import__(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("package", sorted({name_of(path).split("/")[0] for path in files_of(*PACKAGES)}))
def test_every_package_says_what_it_is(package: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))


@pytest.mark.parametrize("path", files_of(*PACKAGES, "tests"), ids=name_of)
def test_files_can_be_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES
