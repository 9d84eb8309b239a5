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

from convert.beton_policy import MAX_PAGE, BetonPolicy, num_pages, page_size
from convert.estimate import refuse_a_small_disk
from convert.plan import digest, records_of
from convert.shard import ShardRecord
from loaders.errors import InputError
from loaders.manifest import FileEntry

_TAIL = 4000
# A module of this name in the working directory is not what is meant.
_OWN_PATH = "import sys; sys.path[:] = [path for path in sys.path if path]; "


def require_ffcv() -> None:
    """Raises InputError where FFCV is not installed or cannot be imported: asked before hours of work, not after."""
    found = subprocess.run([sys.executable, "-c", f"{_OWN_PATH}import ffcv.writer"], capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or [f"exit code {found.returncode}"])[-1]
        raise InputError(f"a .beton needs FFCV, which cannot be imported ({reason}): pip install 'twistnet[ffcv]'.")


def write_beton(out: Path, split: str, records: Sequence[ShardRecord], policy: BetonPolicy, workers: int) -> FileEntry:
    """Writes <split>.beton beside the shards that it is made of, under a temporary name first.

    Raises:
        InputError: where the disk is too small or FFCV's writer fails; nothing of its file is left then.
        OSError: where the disk fails.
    """
    target, temporary = out / f"{split}.beton", unfinished_beton(out, split)
    temporary.unlink(missing_ok=True)
    rows = np.concatenate([record.rows for record in records])
    pixels = rows["height"].astype(np.int64) * rows["width"]
    is_jpg = np.array([policy.is_jpg(sample) for sample in range(len(rows))], dtype=np.bool_)
    sizes = np.where(is_jpg, rows["length"].astype(np.int64), 3 * pixels)
    page = page_size(int(sizes.max()))
    if page > MAX_PAGE:
        raise InputError(f"an image of {sizes.max():,} bytes fits into no page of FFCV's: convert to smaller images.")
    refuse_a_small_disk(
        out, num_pages(sizes, page) * page, "free some and start again, which goes on from the finished shards"
    )
    rows_file = records_of(out, split) / "beton.rows.npy"
    np.save(rows_file, rows, allow_pickle=False)
    spec = {
        "rows": str(rows_file),
        "shards": [str(out / record.entry.name) for record in records],
        "out": str(temporary),
        "page_size": page,
        "policy": asdict(policy),
        "workers": workers,
        "parent": os.getpid(),
    }
    spec_file = records_of(out, split) / "beton.json"  # a command line has no room for thousands of names
    spec_file.write_text(json.dumps(spec))
    try:
        _run(spec_file, split)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return FileEntry(name=target.name, size=target.stat().st_size, sha256=digest(target))


def unfinished_beton(out: Path, split: str) -> Path:
    """Where FFCV writes a split's file, until it is whole."""
    return out / f".{split}.beton.tmp"


def _run(spec: Path, split: str) -> None:
    """Runs FFCV's writer in a process of its own, which ends when its worker fails; FFCV would wait for ever."""
    program = f"{_OWN_PATH}from convert.beton_process import main; main(sys.argv[1])"
    command = [sys.executable, "-c", program, str(spec)]
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
