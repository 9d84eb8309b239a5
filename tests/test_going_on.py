"""A run goes on from what is there, on other numbers of ranks, and with other data or recipes by force alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training import TINY, call, pretrain

from loaders import InputError
from twistnet.recipes import named
from twistnet.resuming import split_batch

GUIDE = named("guide").with_changes(batch_size=64)


@pytest.mark.parametrize(
    ("ranks", "given", "batch_size", "accumulate"),
    [
        (4, (None, None), 64, 1),
        (4, (64, None), 64, 1),  # the first start's own command
        (2, (64, 1), 64, 2),
        (2, (None, None), 64, 2),
        (1, (None, None), 64, 4),
        (8, (64, None), 32, 1),
        (2, (128, None), 128, 1),
        (2, (None, 4), 32, 4),
        (2, (32, None), 32, 4),
        (16, (64, None), 16, 1),
        (2, (64, 4), 64, 2),  # the command of one rank
    ],
)
def test_ranks_share_the_total_batch(
    ranks: int, given: tuple[int | None, int | None], batch_size: int, accumulate: int
) -> None:
    found = split_batch(256, ranks, GUIDE, *given)
    assert (found.batch_size, found.accumulate) == (batch_size, accumulate)
    assert found.total_batch(ranks) == 256
    assert found.with_changes(batch_size=64, accumulate=1) == GUIDE


def test_three_of_four_ranks_go_on_where_the_batch_divides() -> None:
    stored = GUIDE.with_changes(batch_size=24)
    assert split_batch(96, 3, stored, 24, None).batch_size == 16, "two passes of 16, since 32 are more than 24"
    assert split_batch(96, 3, stored, 24, None).accumulate == 2


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ((24, None), (24, 16, 24, 16, 16, 8, 24)),
        ((8, 3), (8, 8, 8, 8, 8, 8, 8)),
        ((None, 3), (8, 8, 16, 16, 16, 8, 32)),
    ],
)
def test_the_first_command_holds_however_the_ranks_change(
    given: tuple[int | None, int | None], passes: tuple[int, ...]
) -> None:
    """What a start stores is its own split, which the next one finds beside the command that began with four ranks."""
    batch_size, accumulate = given
    recipe = GUIDE.with_changes(batch_size=batch_size or 8, accumulate=accumulate or 1)
    found = []
    for ranks in (4, 3, 2, 3, 6, 12, 1):
        recipe = split_batch(96, ranks, recipe, *given)
        assert recipe.total_batch(ranks) == 96
        found.append(recipe.batch_size)
    assert tuple(found) == passes


@pytest.mark.parametrize(
    ("ranks", "given", "message"),
    [
        (
            3,
            (None, None),
            "3 ranks cannot share a total batch of 256 in groups of 8 that are mixed: take 1, 2, 4, 8, 16",
        ),
        (64, (None, None), "64 ranks cannot share a total batch of 256"),
        (2, (48, None), "2 ranks of batch size 48 and accumulate 2 cannot make the total batch of 256"),
        (2, (None, 0), "accumulate 0 is too small"),
        (2, (64, 3), "2 ranks of batch size 64 and accumulate 3 cannot make the total batch of 256"),
        (1, (48, 1), "^1 rank of batch size 48 and accumulate 1 cannot make the total batch of 256 that"),
    ],
)
def test_what_cannot_be_shared_is_refused(ranks: int, given: tuple[int | None, int | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_batch(256, ranks, GUIDE, *given)


def go_on(tree: Path, *flags: str) -> int:
    return call("pretrain", f"--data_dir={tree}", "--device=cpu", "--workers=1", "--no_publish", *flags)


def weights(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(f"{folder}/test_resnet_imagenet.pt", weights_only=True)
    return found


def test_one_command_starts_and_goes_on(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("--resume=auto", "--no_publish", "--keep_every=1")
    assert pretrain(tree, *command) == 0
    assert "from step 0;" in capsys.readouterr().out
    names = {"latest.pt", "previous.pt", "best.pt", "epoch-0001.pt", "epoch-0002.pt"}
    assert names <= {path.name for path in Path("checkpoints").iterdir()}
    whole = weights("checkpoints")

    Path("checkpoints/test_resnet_imagenet.pt").unlink()
    data = Path("checkpoints/latest.pt").read_bytes()
    for path in Path("checkpoints").iterdir():  # what was one file of several names is torn under each
        if path.suffix == ".pt" and path.read_bytes() == data:
            path.unlink()
            path.write_bytes(data[:-1000])
    assert pretrain(tree, *command) == 0
    printed = capsys.readouterr().out
    assert "[Warning] Skipped: checkpoints/latest.pt is cut short.\n" in printed
    assert "from step 4;" in printed
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights("checkpoints").items())

    assert go_on(tree, "--resume=checkpoints") == 0
    assert "from step 8;" in capsys.readouterr().out


def test_force_changes_what_it_may(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fewer = tmp_path / "fewer"
    shutil.copytree(tree, fewer)
    victim = next(path for path in sorted((fewer / "train").rglob("*")) if path.is_file())
    victim.unlink()
    assert pretrain(tree, "--no_publish", "--epochs=1") == 0
    resume = "--resume=checkpoints/latest.pt"
    capsys.readouterr()
    assert go_on(tree, resume, "--epochs=2") == 1
    assert "leave it out, pass --force to go on with it, or start a new run." in capsys.readouterr().err
    assert go_on(fewer, resume) == 1
    refused = capsys.readouterr().err
    assert "the checkpoint has another number of training images (51) than this run (50): resume on the same" in refused
    assert "pass --force to go on with these, or start a new run." in refused
    assert go_on(tree, resume, "--force", "--model=resnet18") == 1
    assert "was trained with: leave it out, or start a new run." in capsys.readouterr().err

    assert go_on(fewer, resume, "--force", "--epochs=2", "--lr=0.05") == 0
    printed = capsys.readouterr().out
    assert "Forced to go on with epochs 2 instead of 1, lr 0.05 instead of" in printed
    assert "number of training images 50 instead of 51" in printed
    rows = [json.loads(line) for line in Path("checkpoints/log.jsonl").read_text().splitlines()]
    starts = [row for row in rows if row["kind"] == "start"]
    assert "changed" not in starts[0]
    assert starts[1]["changed"][0] == "epochs 2 instead of 1"
    assert rows[-1]["epoch"] == 2
    state = torch.load("checkpoints/latest.pt", weights_only=True)
    assert (state["recipe"]["epochs"], state["data"]["samples"]) == (2, 50)


ELSEWHERE = """
import os, sys
os.chdir(sys.argv[1] + os.environ["RANK"])
from twistnet.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def test_ranks_that_find_different_checkpoints_refuse(tree: Path, tmp_path: Path) -> None:
    """As on nodes whose run folders are not the same disk."""
    for rank in range(2):
        (tmp_path / f"node{rank}").mkdir()
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    flags = ["pretrain", f"--data_dir={tree}", "--recipe=demo", *TINY, "--no_publish"]

    def start(ranks: int) -> subprocess.CompletedProcess[str]:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command = [*torchrun, str(script), f"{tmp_path}/node", *flags, "--resume=auto"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)

    assert start(1).returncode == 0
    found = start(2)
    assert found.returncode != 0
    assert (
        "the ranks found different checkpoints in checkpoints (rank 0 epoch 3 after step 0, rank 1 none): put the "
        "folder on a disk that all nodes share, and start again."
    ) in found.stderr
