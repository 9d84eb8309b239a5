"""What setup.cfg cannot say: the compiled library of the native decoder. Everything else stands there."""

from __future__ import annotations

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("loaders/native")

setup(
    ext_modules=[
        # No module of Python's but a library that ctypes opens; built as one, it is installed where it is looked for.
        Extension(
            "loaders.native._native",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            libraries=["jpeg"],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off"],
            language="c++",
            optional=True,  # without a compiler or libjpeg-turbo's headers all else is installed
        )
    ]
)
