"""Which process may write what, held until it ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from loaders.errors import InputError
from loaders.files import explained_locks, take_lock

LOCK = ".lock"


def take_shards(records: Path, numbers: Iterable[int]) -> BinaryIO:
    """An open file, whose closing frees these shards of a split for other processes.

    Byte n of the file stands for shard n, so parts of 1/2 and 1/3 meet where they share a shard, and the whole meets
    every part. The locks are POSIX's, which shared file systems pass on to other machines.

    Args:
        records: the folder of the split's records.
        numbers: of the shards.

    Raises:
        InputError: where another process holds one of them.
        OSError: where the file cannot be made, or its file system has no locks.
    """
    path = records / LOCK
    file = path.open("ab")
    try:
        with explained_locks(path):
            for number in numbers:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError) as error:  # which of them is the system's choice
        file.close()
        raise InputError(
            f"another process is writing the same shards to {records.parent}: wait for it, or end it first."
        ) from error
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def one_at_a_time(out: Path) -> Iterator[None]:
    """Waits until no other process of this machine is in such a block for the folder, as where two splits are finished
    at the same time.

    Raises:
        OSError: where the folder cannot be written to, or its file system has no locks.
    """
    path = out / LOCK
    file = take_lock(path, wait=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
