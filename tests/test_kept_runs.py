"""Fine-tuning with decoded images kept: the same weights, and no image decoded twice by runs of one process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training import finetune, pretrain

from loaders import kept

pytest_plugins = ("training",)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files are kept from here on."""
    seen, put = list[str](), kept.KeptPixels.put

    def noted(self: kept.KeptPixels, origin: kept.Origin, pixels: np.ndarray) -> None:
        seen.append(origin[0])
        put(self, origin, pixels)

    monkeypatch.setattr(kept.KeptPixels, "put", noted)
    return seen


def test_weights_do_not_depend_on_what_is_kept(
    dtd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, results, weights = decoded(monkeypatch), [], []
    for flags in ((), ("--keep_gb=0",), ("--keep_gb=0.0005",)):  # everything, nothing, about a dozen images
        run = Path("runs") / str(len(results))
        assert finetune(dtd, "--weights=none", f"--run_dir={run}", *flags) == 0
        printed = capsys.readouterr().out
        assert ("decoded images are kept, in at most" in printed) == ("--keep_gb=0" not in flags)
        result = json.loads((run / "result.json").read_text())
        results.append((result["val_top1"], result["test_top1"]))
        weights.append(torch.load(run / "test_resnet_dtd.pt", weights_only=True))
        if not flags:
            assert len(seen) == len(set(seen)) == 3 * (8 + 4 + 5), "over two epochs of training and validation"
    assert results[0] == results[1] == results[2]
    first, *others = (each["model"] if "model" in each else each for each in weights)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_runs_of_one_process_share_what_they_are_given(dtd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, shared = decoded(monkeypatch), kept.KeptPixels(2**30)
    monkeypatch.setattr("twistnet.commands.finetune.kept_pixels", lambda _: shared)
    for fold in (1, 2):
        assert finetune(dtd, "--weights=none", f"--fold={fold}", f"--run_dir=runs/{fold}") == 0
    assert len(seen) == len(set(seen)) == shared.num_images == 3 * 17


def test_pretraining_keeps_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = decoded(monkeypatch)
    assert pretrain(tree) == 0
    assert not seen


def test_less_than_nothing_is_refused(dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(dtd, "--weights=none", "--keep_gb=-1") == 1
    assert "keep_gb -1 is impossible: take 0 for none, or more." in capsys.readouterr().err
    assert finetune(dtd, "--weights=none", "--keep_gb=99999") == 1
    assert "keep_gb 99999 is more than the memory of " in capsys.readouterr().err
    assert not Path("runs").exists()
