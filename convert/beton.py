"""Writes a split as FFCV's file through FFCV's own writer, from shards that are finished and checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from convert.beton_policy import BetonPolicy
from convert.estimate import refuse_a_small_disk
from convert.plan import digest, records_of
from convert.shard import ShardRecord
from loaders.errors import InputError
from loaders.manifest import FileEntry

MIN_PAGE, MAX_PAGE = 1 << 23, 1 << 31  # FFCV's default page, and the largest below its limit of 2**32
_TAIL = 4000


def require_ffcv() -> None:
    """Raises InputError where FFCV is not installed or cannot be imported: asked before hours of work, not after."""
    found = subprocess.run([sys.executable, "-c", "import ffcv.writer"], capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1]
        raise InputError(f"a .beton needs FFCV, which cannot be imported ({reason}): pip install 'twistnet[ffcv]'.")


def write_beton(out: Path, split: str, records: Sequence[ShardRecord], policy: BetonPolicy) -> FileEntry:
    """Writes <split>.beton beside the shards that it is made of, under a temporary name first.

    Raises:
        InputError: where FFCV's writer fails; nothing of its file is left then.
    """
    target, temporary = out / f"{split}.beton", out / f".{split}.beton.tmp"
    rows = np.concatenate([record.rows for record in records])
    pixels = rows["height"].astype(np.int64) * rows["width"]
    largest = max(
        int(rows["length"].max()),
        0 if policy.mode == "jpg" else int(3 * pixels.max()),
    )
    page = max(MIN_PAGE, 1 << (largest - 1).bit_length())
    if page > MAX_PAGE:
        raise InputError(f"an image of {largest:,} bytes does not fit into FFCV's pages: convert to smaller images.")
    needed = policy.bytes_of(int(rows["length"].sum(dtype=np.int64)), int(pixels.sum()))
    refuse_a_small_disk(out, round(needed), "free some and start again, which goes on from the finished shards")
    rows_file = records_of(out, split) / "beton.rows.npy"
    np.save(rows_file, rows, allow_pickle=False)
    spec = {
        "rows": str(rows_file),
        "shards": [str(out / record.entry.name) for record in records],
        "out": str(temporary),
        "page_size": page,
        "policy": asdict(policy),
        "parent": os.getpid(),
    }
    try:
        _run(spec, split)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return FileEntry(name=target.name, size=target.stat().st_size, sha256=digest(target))


def _run(spec: dict[str, object], split: str) -> None:
    """Runs FFCV's writer in a process of its own, which ends when its worker fails; FFCV would wait for ever."""
    command = [sys.executable, "-m", "convert.beton_process", json.dumps(spec)]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path})
    assert process.stderr is not None
    tail = b""
    try:
        while block := process.stderr.read1(4096):  # type: ignore[attr-defined]  # a BufferedReader has it
            tail = (tail + block)[-_TAIL:]
            if sys.stderr.isatty():  # FFCV's own bar
                sys.stderr.write(block.decode(errors="replace"))
        code = process.wait()
    except BaseException:
        process.kill()
        raise
    if code:
        lines = tail.decode(errors="replace").strip().splitlines()
        reason = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else f"code {code}")
        raise InputError(
            f"FFCV's writer failed on {split} ({reason.strip()}); the shards are kept: free space or leave beton out."
        )
