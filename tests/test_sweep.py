"""A sweep as a user calls it: shared, killed, stopped and started again, it comes to what an undisturbed one does."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training import TINY, call

from twistnet.arguments import parameters_of
from twistnet.commands.finetune import finetune
from twistnet.commands.sweep import sweep
from twistnet.sweeping import running

pytest_plugins = ("training",)

ROOT = Path(__file__).parent.parent
# Two folds, two seeds, one of timm's smallest models; as many epochs as it takes to meet a run in the middle.
RUNS = [f"test_resnet/fold{fold:02d}-seed{seed}" for fold in (1, 2) for seed in (42, 43)]


def flags(dtd: Path, run_dir: Path, *more: str) -> list[str]:
    own = [f"--data_dir={dtd}", "--recipe=demo_dtd", "--models=test_resnet", "--folds=1-2", "--seeds=42,43"]
    tiny = [flag for flag in TINY if not flag.startswith(("--model", "--epochs"))]
    return [*own, *tiny, "--epochs=4", "--weights=none", f"--run_dir={run_dir}", *more]


def started(dtd: Path, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "twistnet", "sweep", *flags(dtd, run_dir, *more)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def results(run_dir: Path) -> dict[str, dict[str, Any]]:
    found = {
        str(path.parent.relative_to(run_dir)): json.loads(path.read_text()) for path in run_dir.rglob("result.json")
    }
    return {
        name: {key: result[key] for key in ("val_top1", "best_epoch", "test_top1")} for name, result in found.items()
    }


def weights(run_dir: Path, run: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run_dir / run / "test_resnet_dtd.pt", weights_only=True)
    return found


def assert_same(run_dir: Path, whole: Path) -> None:
    assert results(run_dir) == results(whole)
    for run in RUNS:
        ours, right = weights(run_dir, run), weights(whole, run)
        assert all(torch.equal(ours[name], right[name]) for name in right)
    assert not list(run_dir.rglob("claim.json*"))


def wait_for_a_run_in_the_middle(run_dir: Path, pid: int) -> Path:
    """The folder of a run that this process has claimed, and that has a checkpoint."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for claim in run_dir.rglob("claim.json"):
            try:
                own = json.loads(claim.read_text())["pid"] == pid
            except (FileNotFoundError, ValueError):
                continue
            if own and (claim.parent / "latest.pt").exists() and not (claim.parent / "result.json").exists():
                return claim.parent
        time.sleep(0.005)
    raise AssertionError("no run was met")


@pytest.fixture(scope="module")
def whole(dtd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep's folder."""
    run_dir = tmp_path_factory.mktemp("whole") / "runs"
    assert call("sweep", *flags(dtd, run_dir)) == 0
    return run_dir


def test_it_has_finetunes_flags() -> None:
    ours, theirs = parameters_of(sweep), parameters_of(finetune)
    own = {"models", "folds", "seeds", "run_dir", "weights", "dry_run", "wait", "stale_minutes"}
    assert ours.keys() - own == theirs.keys() - {
        *("model", "fold", "seed", "run_dir", "resume", "weights", "profile", "force")
    }
    assert all(ours[name] == theirs[name] for name in ours.keys() - own)
    described = re.findall(r"^    (\w+): \S", sweep.__doc__ or "", re.MULTILINE)
    assert sorted(described) == sorted(ours)


def test_runs_lie_in_their_folders_and_are_summed_up(
    whole: Path, dtd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(results(whole)) == sorted(RUNS)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    capsys.readouterr()
    assert call("sweep", *flags(dtd, whole)) == 0
    printed = capsys.readouterr().out
    assert "4 runs: 4 done" in printed
    assert "begins" not in printed
    tests = [100 * result["test_top1"] for result in results(whole).values()]
    mean = f"{statistics.fmean(tests):.2f} ± {statistics.stdev(tests):5.2f} %"
    assert re.search(rf"^test_resnet +4 of 4 +{re.escape(mean)}", printed, re.MULTILINE)
    assert f"twistnet report {whole}" in printed
    assert call("sweep", *flags(dtd, whole, "--dry_run")) == 0
    assert len(re.findall(r"fold \d seed \d+ +done +test", capsys.readouterr().out)) == 4
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert after == {path: moment for path, moment in before.items() if path in after}
    output = (whole / RUNS[0] / "output.txt").read_text()
    assert "Epoch 4: val_acc" in output
    assert json.loads((whole / "sweep.json").read_text()) == {
        "data_dir": str(dtd),
        "dataset": "dtd",
        "recipe": "demo_dtd",
        "changes": {"epochs": 4, "batch_size": 16, "size": 32},
        "weights": {"test_resnet": "none"},
    }


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data_dir=nowhere"], "nowhere does not exist: check --data_dir"),
        (["--models=test_resnet,resnet19"], "model 'resnet19' is unknown to timm: did you mean resnet1"),
        (["--folds=1-11"], "--folds 11 is none of dtd's: take 1 to 10."),
        (["--folds=1-3"], "has no split 'train3'"),
        (["--weights=test_resnet=nowhere.pt"], "there is no weights file nowhere.pt for test_resnet"),
        (["--weights=auto", "--models=twistnet18"], "There is no weights/twistnet18_imagenet.pt and timm's"),
        (["--seeds=1,1"], "--seeds gives 1 twice"),
        (["--set=seed=5"], "--set seed=5 and seed 42 are both given"),
        (["--batch_size=32"], "a total batch of 32 is more than the 24 images of train1: lower --batch_size or the"),
        (["--stale_minutes=0.1"], "--stale_minutes 0.1 is too short"),
        (["--workers=0"], "workers 0 is too small"),
    ],
)
def test_what_would_fail_in_every_run_is_told_before_the_first(
    dtd: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert call("sweep", *flags(dtd, tmp_path / "runs", *extra)) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_is_what_finetune_makes_of_the_same_flags(whole: Path, dtd: Path, tmp_path: Path) -> None:
    """Its epoch is chosen on the fold's validation split, like that one's."""
    alone = tmp_path / "alone"
    tiny = [flag for flag in TINY if not flag.startswith("--epochs")]
    own = ["--recipe=demo_dtd", "--epochs=4", "--weights=none", "--fold=2", "--seed=43", f"--run_dir={alone}"]
    assert call("finetune", f"--data_dir={dtd}", *tiny, *own) == 0
    (told,) = results(alone).values()
    assert told == results(whole)["test_resnet/fold02-seed43"]
    ours, right = weights(whole, "test_resnet/fold02-seed43"), weights(tmp_path, "alone")
    assert all(torch.equal(ours[name], right[name]) for name in right)
    data = torch.load(whole / "test_resnet/fold02-seed43/latest.pt", weights_only=True)["data"]
    assert (data["train_split"], data["val_split"]) == ("train2", "val2")


def test_runs_draw_their_curves_where_they_are_not_short(
    whole: Path, dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not list(whole.rglob("curves.png")), "a tenth of the time of runs of seconds"
    monkeypatch.setattr("twistnet.reporting._SHORT_S", 0.0)
    assert call("sweep", *flags(dtd, tmp_path / "runs", "--folds=1", "--seeds=42", "--epochs=1")) == 0
    with Image.open(tmp_path / "runs" / RUNS[0] / "curves.png") as curves:
        assert min(curves.size) > 500


def test_what_others_leave_between_two_looks_is_taken(
    whole: Path, dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that its holder gives up after it was passed over, and before its claims are counted."""
    run_dir = shutil.copytree(whole, tmp_path / "runs")
    (run_dir / RUNS[1] / "result.json").unlink()
    looked = running.Sweep._next
    passed_over: list[None] = [None]

    def once_nothing(self: running.Sweep) -> Any:
        return passed_over.pop() if passed_over else looked(self)

    monkeypatch.setattr(running.Sweep, "_next", once_nothing)
    assert call("sweep", *flags(dtd, run_dir)) == 0
    assert_same(run_dir, whole)


def test_several_ranks_and_another_sweep_are_refused(
    whole: Path, dtd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra in ([], ["--dry_run"]):
        assert call("sweep", *flags(dtd, whole, "--lr=0.5", *extra)) == 1
        assert f"{whole} holds a sweep with lr the recipe's own, not 0.5: choose another" in capsys.readouterr().err
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert call("sweep", *flags(dtd, whole)) == 1
    assert "a sweep runs in one process, not in 2" in capsys.readouterr().err


def test_the_folder_of_a_run_is_no_sweeps(whole: Path, dtd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next(whole.glob("*/fold*"))
    assert call("sweep", *flags(dtd, folder)) == 1
    assert f"{folder} is the folder of a run, not of a sweep: choose another --run_dir." in capsys.readouterr().err
    assert not (folder / "sweep.json").exists()


def test_a_full_disk_ends_a_sweep(
    dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "w.safetensors")

    monkeypatch.setattr("twistnet.commands.sweep.finetune_fold", full)
    assert call("sweep", *flags(dtd, tmp_path / "runs")) == 1
    printed = capsys.readouterr()
    assert printed.out.count("failed: w.safetensors: No space left on device") == 1, "the others are not begun"
    assert f"error: no space is left for {tmp_path / 'runs'}: free some, then start the same" in printed.err


@pytest.mark.parametrize("lost", [True, False])
def test_a_card_that_no_longer_answers_ends_a_sweep(
    dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: bool
) -> None:
    """Every later run of the process would fail of it; an error of one kernel that left the card well does not."""

    def faulty(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def synchronize() -> None:
        if lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("twistnet.commands.sweep.finetune_fold", faulty)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert call("sweep", *flags(dtd, tmp_path / "runs")) == 1
    printed = capsys.readouterr()
    told = printed.out.count(": failed: AcceleratorError: CUDA error: an illegal memory access was encountered")
    assert (told, "error: the card no longer answers this process" in printed.err) == (
        (1, True) if lost else (4, False)
    )


def test_a_failed_run_leaves_the_others_and_is_tried_again(
    whole: Path, dtd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, bad = tmp_path / "runs", tmp_path / "bad.pt"
    bad.write_bytes(b"no weights")
    more = ["--models=test_vit,test_resnet", "--seeds=42", f"--weights=test_vit={bad},test_resnet=none"]
    assert call("sweep", *flags(dtd, run_dir, *more)) == 1
    printed = capsys.readouterr().out
    assert f"[Warning] The runs of test_vit will fail: {bad} cannot be read as weights" in printed
    table = printed[printed.index("\nfailed ") :]
    for fold in (1, 2):
        assert re.search(rf"^test_vit fold {fold} seed 42 +{bad} cannot be read as weights \(", table, re.MULTILINE)
        assert (run_dir / f"test_vit/fold0{fold}-seed42/error.txt").read_text().startswith(f"{bad} cannot be read")
    assert results(run_dir) == {name: result for name, result in results(whole).items() if name.endswith("42")}
    assert not list(run_dir.rglob("claim.json*"))

    assert call("sweep", *flags(dtd, run_dir, *more, "--dry_run")) == 0
    assert "tried again, from its checkpoint where it has one: " in capsys.readouterr().out
    made = {"--model=test_vit", "--epochs=1", f"--run_dir={tmp_path / 'vit'}", "--weights=none"}
    tiny = [flag for flag in TINY if not flag.startswith(("--model", "--epochs"))]
    assert call("finetune", f"--data_dir={dtd}", "--recipe=demo_dtd", *tiny, *made) == 0
    shutil.copy(tmp_path / "vit/test_vit_dtd.pt", bad)
    assert call("sweep", *flags(dtd, run_dir, *more)) == 0
    assert len(results(run_dir)) == 4
    assert not list(run_dir.rglob("error.txt"))


def test_a_stopped_sweep_saves_its_run_and_goes_on(whole: Path, dtd: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs"
    process = started(dtd, run_dir)
    folder = wait_for_a_run_in_the_middle(run_dir, process.pid)
    process.send_signal(signal.SIGTERM)
    code, _, said = finished(process)
    assert code == 143
    assert re.search(
        r"twistnet sweep: interrupted (in test_resnet fold \d seed \d+, which is saved|between two runs)", said
    )
    assert said.endswith(": start the same command again to go on.\n")
    assert not list(run_dir.rglob("claim.json*"))
    assert (folder / "latest.pt").exists()
    assert len(results(run_dir)) < 4
    assert call("sweep", *flags(dtd, run_dir)) == 0
    assert_same(run_dir, whole)


def test_two_share_a_sweep_and_one_is_killed(whole: Path, dtd: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs"
    processes = [started(dtd, run_dir) for _ in range(2)]
    wait_for_a_run_in_the_middle(run_dir, processes[0].pid)
    processes[0].kill()
    finished(processes[0])
    again = started(dtd, run_dir)
    found = [finished(process) for process in (processes[1], again)]
    assert [code for code, _, _ in found] == [0, 0], found
    assert all("4 runs: 4 done" in out for _, out, _ in found)
    begun = [re.findall(r"^(test_resnet fold \d seed \d+): begins", out, re.MULTILINE) for _, out, _ in found]
    assert not set(begun[0]) & set(begun[1]), "each run is done once"
    assert_same(run_dir, whole)


def test_nobody_waits_who_is_told_not_to(
    whole: Path, dtd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that another process holds is left to it, and shown as its."""
    run_dir = shutil.copytree(whole, tmp_path / "runs")
    (run_dir / RUNS[2] / "result.json").unlink()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir / RUNS[2])], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    capsys.readouterr()
    assert call("sweep", *flags(dtd, run_dir, "--no_wait")) == 0
    printed = capsys.readouterr().out
    assert "4 runs: 3 done, 1 running. Other processes still work at it." in printed
    assert call("sweep", *flags(dtd, run_dir, "--dry_run")) == 0
    assert f"4 epochs by process {holder.pid} on " in capsys.readouterr().out
    killing = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(3); os.kill({holder.pid}, 9)"])
    assert call("sweep", *flags(dtd, run_dir)) == 0
    printed = capsys.readouterr().out
    assert f"Waiting for process {holder.pid} on " in printed
    assert "test_resnet fold 2 seed 42: goes on" in printed
    assert_same(run_dir, whole)
    assert (killing.wait(), holder.wait()) == (0, -9)


HOLD = """
import sys, time
from pathlib import Path
from twistnet.sweeping.claims import CLAIM, take
claim = take(Path(sys.argv[1]) / CLAIM, 600.0, print)
print("held", flush=True)
time.sleep(600)
"""


def test_what_is_no_input_error_is_kept_with_its_traceback(
    dtd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import twistnet.commands.sweep as command

    whole: Callable[..., Any] = command.finetune_fold

    def fail(job: Any, *rest: Any, **named: Any) -> Any:
        if job.train_split == "train1":
            raise RuntimeError("a defect\nof two lines")
        return whole(job, *rest, **named)

    monkeypatch.setattr(command, "finetune_fold", fail)
    assert call("sweep", *flags(dtd, tmp_path / "runs", "--seeds=42", "--epochs=2")) == 1
    assert "test_resnet fold 1 seed 42  RuntimeError: a defect of two lines" in capsys.readouterr().out
    text = (tmp_path / "runs" / RUNS[0] / "error.txt").read_text()
    assert text.startswith("RuntimeError: a defect of two lines\n\nTraceback")
    assert list(results(tmp_path / "runs")) == [RUNS[2]]
