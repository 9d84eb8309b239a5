"""What setup.cfg cannot say: the two compiled libraries. Everything else stands there."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("loaders/native")
# Libraries that ctypes opens, no modules of Python's; built as such, they are installed where they are looked for.
# Optional: without a compiler or libjpeg-turbo's headers all else is installed.

setup(
    ext_modules=[
        Extension(
            "loaders.native._native",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            libraries=["jpeg"],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off"],
            language="c++",
            optional=True,
        ),
        Extension(
            "twistnet.interactions._interactions",
            sources=["twistnet/interactions/interactions.cpp"],
            depends=[str(SOURCES / "clones.h")],
            include_dirs=[str(SOURCES)],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fopenmp", "-Wno-psabi"],
            extra_link_args=["-fopenmp"],  # torch's own, which is loaded by then
            language="c++",
            optional=True,
        ),
    ]
)
