"""The stage that bounds a run is named, in the training log and by the bench: each is slowed down on purpose."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from throttles import THROTTLES
from training import pretrain

from twistnet.advice import Setting
from twistnet.bottleneck import Seen, bound_by

SLOW_S = 0.15  # a batch; a step of 4 images takes a tenth of it
SETTING = Setting(on_card=False, ranks=1, threads=2, cores=2, form="tree", decoder="native")
SEEN = Seen(seconds=10.0, steps=100, waited_steps=38, waited_s=3.0, stages={"decode": 18.0, "read": 0.5})


@pytest.mark.parametrize("stage", THROTTLES)
def test_the_epoch_line_names_the_stage_that_is_slow(
    stage: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    THROTTLES[stage](monkeypatch, SLOW_S)
    assert pretrain(tree, "--batch_size=4", "--epochs=1", "--log_every=5") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bound by: ")]
    (row,) = (row for row in log(tmp_path / "checkpoints") if row["kind"] == "epoch")
    assert len(said) == 1
    place = {"read": "storage", "upload": "link"}.get(stage, "CPU")
    assert said[0].startswith(f"bound by: {stage} ({place}), {row['waited_steps']:.0%} of steps waited for data; ")
    assert row["bound_by"] == stage
    assert row["waited_steps"] < 0.3 if stage == "step" else row["waited_steps"] > 0.6
    assert ("loading keeps up" in said[0]) == (stage == "step")


def test_nothing_is_said_of_an_epoch_of_one_step(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree, "--batch_size=51", "--epochs=1") == 0
    assert "bound by" not in capsys.readouterr().out
    (row,) = (row for row in log(tmp_path / "checkpoints") if row["kind"] == "epoch")
    assert "bound_by" not in row


def log(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("waited", "busy", "bound"),
    [
        (0.01, {"decode": 1.0}, "step"),
        (0.01, {"step": 0.4, "all-reduce": 0.6}, "all-reduce"),
        (0.4, {"read": 0.45, "decode": 0.5, "upload": 0.6}, "decode"),  # the same threads read and decode
        (0.4, {"read": 0.1, "decode": 0.5, "upload": 0.5, "augment": 0.4}, "upload"),
    ],
)
def test_the_busiest_threads_busiest_stage_bounds(waited: float, busy: dict[str, float], bound: str) -> None:
    assert bound_by(waited, busy) == bound


def test_decoding_that_waits_for_a_disk_is_reading() -> None:
    """Of mapped files: the decoder's threads touch them first, and do nothing while they come."""
    assert SETTING.bound(SEEN) == "decode"
    from_disk = dataclasses.replace(SEEN, read_bytes=100_000 * 1000, images=1000, cpu_s=10.0)
    assert SETTING.bound(from_disk) == "read"
    assert SETTING.bound(dataclasses.replace(from_disk, cpu_s=19.5)) == "decode", "the cores had no time to wait"
    assert SETTING.bound(dataclasses.replace(from_disk, read_bytes=1000)) == "decode", "the set was in memory"


@pytest.mark.parametrize(
    ("change", "seen", "said"),
    [
        (
            {},
            SEEN,
            "bound by: decode (CPU), 38% of steps waited for data; "
            "try images converted smaller (twistnet convert --images max_side=400)",
        ),
        ({"threads": 1}, SEEN, "; try --workers 2, or images converted smaller"),
        ({"on_card": True, "decoder": "dali"}, SEEN, "bound by: decode (card), 38% of steps"),
        ({"ranks": 2}, dataclasses.replace(SEEN, rank=1), "bound by: decode (CPU, rank 1), 38% of steps"),
        ({}, dataclasses.replace(SEEN, stages={"read": 19.0}), "try shards instead of single files (twistnet convert)"),
        ({"form": "shards"}, dataclasses.replace(SEEN, stages={"read": 19.0}), "try images converted smaller"),
        ({}, dataclasses.replace(SEEN, stages={"buffer": 9.0}), "bound by: upload (link), 38% of steps waited"),
        ({}, dataclasses.replace(SEEN, stages={"augment": 9.0}), "; try a cheaper --policy"),
        (
            {"on_card": True},
            dataclasses.replace(SEEN, waited_s=0.1, waited_steps=1),
            "bound by: step (card), 1% of steps waited for data; loading keeps up",
        ),
    ],
)
def test_the_line_says_what_to_try(change: dict[str, object], seen: Seen, said: str) -> None:
    assert said in dataclasses.replace(SETTING, **change).line(seen)  # type: ignore[arg-type]
