"""What goes wrong around a run: a clock that jumps, and shared memory that is tiny."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from training import pretrain

from twistnet.checkpoints import Checkpoints


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "test_resnet_imagenet.pt", weights_only=True)
    return found


def steps(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if row["kind"] == "steps"]


def test_a_clock_that_jumps_changes_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--no_publish", "--log_every=1", "--checkpoint_minutes=0", "--hang_minutes=1")
    assert pretrain(tree, *flags, "--checkpoint_dir=steady") == 0
    now, jumps = time.time, itertools.cycle((0, -3600, 86400, -7200))
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    assert pretrain(tree, *flags, "--checkpoint_dir=jumping") == 0
    steady, jumping = weights(Path("steady")), weights(Path("jumping"))
    assert all(torch.equal(tensor, jumping[name]) for name, tensor in steady.items())
    assert steps(Path("steady")) == steps(Path("jumping"))
    saved = [
        torch.load(folder / "latest.pt", weights_only=True)["epoch"] for folder in map(Path, ("steady", "jumping"))
    ]
    assert saved == [2, 2]


def test_a_clock_that_jumps_makes_no_checkpoint_due(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one a minute none is, in a run of seconds, though the clock is put forward by a day at every look."""
    saved: list[tuple[str, ...]] = []
    save = Checkpoints.save

    def recorded(self: Checkpoints, state: dict[str, Any], names: tuple[str, ...]) -> None:
        saved.append((*names, str(state["epoch"])))
        save(self, state, names)

    monkeypatch.setattr(Checkpoints, "save", recorded)
    now, days = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 86400 * next(days))
    flags = ("--no_publish", "--log_every=1", "--checkpoint_minutes=1", f"--checkpoint_dir={tmp_path / 'run'}")
    assert pretrain(tree, *flags) == 0
    assert [(names[0], names[-1]) for names in saved] == [("latest.pt", "1"), ("latest.pt", "2")]


# Batches of 38 MiB of pixels, several of them ahead, and a model beside them.
TINY_SHM = """
import os, sys
from loaders import open_loader
from loaders.augment import Augment

assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 * 2**20
loader = open_loader(sys.argv[1], "train", 48, train=True, size=512, augment=Augment(), look_ahead=6)
for epoch in range(3):
    for batch in loader.epoch(epoch):
        assert batch.images.shape[1:] == (3, 512, 512)
loader.close()
print(os.listdir("/dev/shm"))
"""


def test_64_mb_of_shared_memory_are_enough(tree: Path) -> None:
    """Which is what a container has: threads share what they have anyway."""
    mounted = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$0" -c "$1" "$2"'
    command = ["unshare", "--mount", "sh", "-c", mounted, sys.executable, TINY_SHM, str(tree)]
    try:
        allowed = subprocess.run([*command[:4], mounted.partition(" && ")[0]], capture_output=True, text=True)
        why = allowed.stderr.strip() if allowed.returncode else ""
    except OSError as error:
        why = str(error)
    if why:
        pytest.skip(f"a small /dev/shm takes unshare and the rights to mount: {why}")
    found = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ)
    assert (found.returncode, found.stdout) == (0, "[]\n"), found.stderr
