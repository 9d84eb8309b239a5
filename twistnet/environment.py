"""What a run was made with: versions, machine and commit, for env.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from launch.version import VERSION
from loaders.cores import usable_memory
from twistnet.machine import driver_version

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "ffcv", "nvidia-dali-cuda130", "triton")
_CHECKOUT = Path(__file__).resolve().parent.parent


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, card, cores and commit as plain values."""
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "twistnet": VERSION,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda if card else None,
        "card": card.name if card else None,
        "card_memory_gib": round(card.total_memory / 2**30, 1) if card else None,
        "driver": driver_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(usable_memory() / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where files differ from it; None outside a checkout.

    Rows of results are not looked at: the first that a bench adds must not make the next one's checkout another.
    """
    if not (_CHECKOUT / ".git").exists():  # installed: another repository may lie around the environment
        return None
    try:
        found = _git("rev-parse", "--short=12", "HEAD").stdout.strip()
        changed = found and _git("diff", "--quiet", "HEAD", "--", ".", ":(exclude)bench/results").returncode
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{found}-dirty" if changed else found or None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=_CHECKOUT, capture_output=True, text=True, timeout=10)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
