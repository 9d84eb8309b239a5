"""The compiled library with a driver, as programs under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import loaders.native

NATIVE = Path(loaders.native.__file__).parent


def sanitized(driver: str, folder: Path) -> list[Path]:
    """The loaders' library with the driver of that name beside this file."""
    return built_with_sanitizers(driver, sorted(NATIVE.glob("*.cpp")), folder)


def built_with_sanitizers(driver: str, library: list[Path], folder: Path) -> list[Path]:
    """The driver of that name beside this file, built once for this processor and once by plain loops."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    sources = [str(Path(__file__).parent / driver), *map(str, library)]
    options = ["-std=c++17", "-O1", "-g", f"-I{NATIVE}", "-ffp-contract=off", "-fopenmp", "-Wno-psabi"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = []
    for name, flags in (("fast", []), ("plain", ["-DTWISTNET_PLAIN"])):
        built.append(folder / name)
        command = [compiler, *options, *flags, *sanitizers, *sources, "-ljpeg", "-pthread", "-o", str(built[-1])]
        subprocess.run(command, check=True)
    return built
