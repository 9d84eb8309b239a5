"""A group of processes with little memory, the system's cache of their files included: cgroups, as the superuser."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from loaders import InputError

ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(size: int, number: int) -> Iterator[Path]:
    """Makes a group below that of this process; gives the file that a process writes its number into to join.

    Args:
        size: bytes of memory of all its processes together.
        number: of the group, among those that this process makes.

    Raises:
        InputError: where this process may not make one.
    """
    group, limit = _place(number)
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise InputError(
            f"memory cannot be limited ({error.strerror} at {group}): run as the superuser with cgroups, or leave "
            "--memory out."
        ) from error
    try:
        yield group / "cgroup.procs"
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()  # its processes have ended


def _place(number: int) -> tuple[Path, str]:
    """Where a group below that of this process goes, and the file of its limit: of cgroups version 1 or 2."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.strip("/")
    name = f"twistnet-{os.getpid()}-{number}"
    if "memory" in own:
        return ROOT / "memory" / own["memory"] / name, "memory.limit_in_bytes"
    return ROOT / own.get("", "") / name, "memory.max"
