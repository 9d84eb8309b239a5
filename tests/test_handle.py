"""Threads of the compiled library: in a forked process, and where the system has no more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_decoders import needed
from test_reference import ODD

FORKED = """
import os, sys
import numpy as np
from loaders.choosing import make_decoder

decoder = make_decoder({name!r}, {interpolation!r}, 3)
data = [open(sys.argv[1], "rb").read()]
out = np.zeros((1, 8, 8, 3), dtype=np.uint8)
box = np.array([[0, 0, 4, 4]])
if os.fork() == 0:
    try:
        decoder.decode(data, box, np.array([False]), out)
    except ValueError as error:
        print("child:", error, flush=True)
    other = make_decoder({name!r}, {interpolation!r}, 3)
    print("another:", other.decode(data, box, np.array([False]), out), flush=True)
    other.close()
    del decoder
    sys.exit(0)
print("status", os.wait()[1], flush=True)
print("parent:", decoder.decode(data, box, np.array([False]), out), flush=True)
"""
TOO_MANY = """
import resource
from loaders import InputError
from loaders.choosing import make_decoder

resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
try:
    make_decoder({name!r}, {interpolation!r}, 100_000)
except InputError as error:
    print(error)
"""


def printed(tmp_path: Path, code: str, decoder: str) -> list[str]:
    needed(decoder)
    image = tmp_path / "image.jpg"
    image.write_bytes(ODD["jpeg"])
    script = code.format(name=decoder, interpolation="area" if decoder == "ffcv" else "bilinear")
    done = subprocess.run([sys.executable, "-c", script, image], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("decoder", ["native", "ffcv"])
def test_a_forked_process_is_refused_and_ends(tmp_path: Path, decoder: str) -> None:
    refused, another, status, parent = printed(tmp_path, FORKED, decoder)
    assert refused == "child: this decoder was opened before a fork, which does not copy its threads: open another one"
    assert (another, status, parent) == ("another: {}", "status 0", "parent: {}")


@pytest.mark.parametrize("decoder", ["native", "ffcv"])
def test_more_threads_than_the_system_has_are_one_sentence(tmp_path: Path, decoder: str) -> None:
    assert printed(tmp_path, TOO_MANY, decoder) == ["100000 threads cannot be started: lower --workers."]
