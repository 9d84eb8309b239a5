"""How many cores, and how much memory, this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from loaders.errors import InputError


def usable_cores() -> int:
    """Cores that the affinity mask and the cgroup leave to this process, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit, _ = cgroup_limits()
    return affinity if limit is None else max(1, min(affinity, math.ceil(limit)))


def usable_memory() -> int:
    """Bytes of memory that the machine has, or that the cgroup leaves to this process."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    _, limit = cgroup_limits()
    return memory if limit is None else min(memory, limit)


def local_ranks() -> int:
    """Processes of a run that share this machine, as torchrun says.

    Raises:
        InputError: where LOCAL_WORLD_SIZE is no such number.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not (ranks.isascii() and ranks.isdigit() and int(ranks)):
        raise InputError(f"LOCAL_WORLD_SIZE is {ranks!r}, which is no count of processes: unset it or use torchrun.")
    return int(ranks)


def cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[float | None, int | None]:
    """What cgroups (version 1 or 2) allow this process, as a container or a batch system sets it.

    Args:
        root: where cgroups are mounted.
        membership: the groups of the process, a line `id:controllers:path` each.

    Returns:
        Cores and bytes of memory; None for what is not limited.
    """
    cores: list[float] = []
    memory: list[int] = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers if controllers else root
        # Each ancestor limits too. A container may see its own group at the root, under a path that is not there.
        inner = base / path.strip("/")
        for folder in (inner, *inner.parents):
            if folder != base and base not in folder.parents:
                break
            quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
            if not quota:
                quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
            if quota.isdigit() and period.isdigit():
                cores.append(int(quota) / int(period))
            for name in ("memory.max", "memory.limit_in_bytes"):
                limit = _text(folder / name).strip()
                # Version 1 writes "no limit" as a number near 2**63.
                if limit.isdigit() and int(limit) < 2**60:
                    memory.append(int(limit))
    return min(cores, default=None), min(memory, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
