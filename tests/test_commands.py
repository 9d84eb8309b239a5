"""The training commands as a user calls them: what they write, print and refuse."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from training import call, pretrain

from loaders.choosing import DECODERS
from twistnet import reporting
from twistnet.run_folder import RunFolder

pytest_plugins = ("training",)


def resume(tree: Path, *flags: str) -> int:
    return call("pretrain", f"--data_dir={tree}", "--device=cpu", *flags)


def test_a_resumed_run_keeps_its_decoder_and_takes_one_with_other_pixels_only_where_it_must(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = "--resume=checkpoints/latest.pt"
    assert pretrain(tree, "--interpolation=area", "--decoder=reference") == 0
    capsys.readouterr()
    assert resume(tree, checkpoint) == 0
    kept = capsys.readouterr().out
    assert "decoder reference, " in kept
    assert "Forced" not in kept
    before = Path("checkpoints/log.jsonl").read_bytes()
    assert resume(tree, checkpoint, "--decoder=ffcv") == 1
    said = capsys.readouterr().err
    assert (
        "images were decoded by reference, of which decoder ffcv makes other pixels: pass --decoder reference" in said
    )
    assert Path("checkpoints/log.jsonl").read_bytes() == before
    assert resume(tree, checkpoint, "--decoder=ffcv", "--force") == 0
    assert "[Warning] Forced to go on with decoder ffcv instead of reference." in capsys.readouterr().out
    assert json.loads(Path("checkpoints/log.jsonl").read_text().splitlines()[-1])["changed"] == [
        "decoder ffcv instead of reference"
    ]
    assert pretrain(tree, "--decoder=reference", "--checkpoint_dir=second") == 0
    assert resume(tree, "--resume=second/latest.pt", "--decoder=native") == 0
    assert "Forced" not in capsys.readouterr().out, "these two make the same"


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_can_be_asked_for(
    decoder: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if decoder.startswith("dali"):
        pytest.importorskip("nvidia.dali", reason="needs DALI")
    if decoder == "ffcv":
        pytest.importorskip("ffcv", reason="needs FFCV", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    interpolation = "area" if decoder == "ffcv" else "bilinear"
    assert pretrain(tree, f"--decoder={decoder}", f"--interpolation={interpolation}", "--policy=randaugment-m5") == 0
    assert f"decoder {decoder}" in capsys.readouterr().out
    (last,) = [row for row in map(json.loads, Path("checkpoints/log.jsonl").open()) if row["kind"] == "epoch"][-1:]
    assert last["val_top1"] >= 0
    assert set(last.get("shares", {})) == (set(decoder.split("+")) if "+" in decoder else set())
    assert json.loads(Path("checkpoints/recipe.json").read_text())["policy"] == "randaugment-m5"


def test_a_published_recipe_trains_and_goes_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--recipe=a1", "--model=resnet18", "--size=32", "--batch_size=16", "--epochs=2", "--workers=1"]
    assert call("pretrain", f"--data_dir={tree}", "--device=cpu", *flags) == 0
    rows = [json.loads(line) for line in Path("checkpoints/log.jsonl").read_text().splitlines()]
    assert 0 < [row["loss"] for row in rows if row["kind"] == "epoch"][-1] < 1, "a binary one"
    assert resume(tree, "--resume=checkpoints/latest.pt") == 0
    more = ["--epochs=1", "--policy=none", "--checkpoint_dir=second"]
    assert call("pretrain", f"--data_dir={tree}", "--device=cpu", *flags, *more) == 0


def test_pretraining_publishes_its_weights_and_keeps_those_of_before(
    tree: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.parent / "weights"
    names = [f"test_resnet_imagenet{suffix}" for suffix in (".pt", ".safetensors")]
    assert sorted(path.name for path in folder.iterdir()) == names
    before = [(folder / name).read_bytes() for name in names]
    assert before == [(run / name).read_bytes() for name in names]
    capsys.readouterr()
    assert pretrain(tree, "--checkpoint_dir=second", "--seed=9") == 0
    assert "The weights of before are kept as weights/test_resnet_imagenet.20" in capsys.readouterr().out
    assert [(folder / name).read_bytes() for name in names] == [Path("second", name).read_bytes() for name in names]
    kept = sorted(path for path in folder.iterdir() if path.name not in names)
    assert [path.read_bytes() for path in kept] == before

    # A job that is started once more after its end publishes the same weights again: nothing to keep.
    assert resume(tree, "--resume=second/latest.pt") == 0
    assert len(list(folder.iterdir())) == 4
    assert pretrain(tree, "--checkpoint_dir=third", "--seed=7", "--no_publish", "--weights_dir=elsewhere") == 0
    assert resume(tree, "--resume=third/latest.pt") == 0
    assert not Path("elsewhere").exists()
    assert len(list(folder.iterdir())) == 4, "a resumed run keeps to what was said when it began"


def test_epoch_lines_and_log_agree(run: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(tree, "--checkpoint_dir=again") == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in Path("again/log.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "epoch"][-1]
    assert f"Epoch 2: val_acc {last['val_top1']:.2%}, top-5 {last['val_top5']:.2%}" in printed
    first = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [[row["loss"] for row in found if row["kind"] == "steps"] for found in (rows, first)]
    assert losses[0] == losses[1], "the same seed trains the same way"
    with Image.open(run / "curves.png") as curves:
        assert min(curves.size) > 400


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "holds a run already (latest.pt): go on with --resume checkpoints/latest.pt"),
        (["--resume=nowhere/latest.pt"], "nowhere/latest.pt does not exist"),
        (["--resume=checkpoints/recipe.json"], "cannot be read"),
        (["--resume=checkpoints/best.pt"], "would overwrite checkpoints/latest.pt"),
        (["--resume=checkpoints/test_resnet_imagenet.pt"], "is no checkpoint of a run: name a latest.pt"),
        (["--resume=."], ". holds no checkpoint of a run: name a folder with a latest.pt, or pass auto"),
        (["--resume=checkpoints/latest.pt", "--lr=0.7"], "lr 0.7 differs from the "),
        (["--resume=checkpoints/latest.pt", "--recipe=guide"], "recipe guide differs from the demo"),
        (["--resume=checkpoints/latest.pt", "--batch_size=12"], "cannot make the total batch of 16"),
        (["--resume=checkpoints/latest.pt", "--checkpoint_dir=other"], "--checkpoint_dir other is not the folder"),
        (["--checkpoint_dir=new", "--recipe=guide", "--batch_size=12"], "mixing needs a multiple of 8: take 8"),
        (["--checkpoint_dir=new", "--model=twistnet19"], "twistnet19"),
        (["--checkpoint_dir=new", "--warmup_epochs=2"], "warmup_epochs 2 leaves nothing of 2 epochs"),
        (
            ["--checkpoint_dir=new", "--weights_dir=checkpoints/log.jsonl"],
            "--weights_dir checkpoints/log.jsonl cannot be written to",
        ),
        (["--resume=checkpoints/latest.pt", "--accumulate=0"], "accumulate 0 is too small"),
        (["--checkpoint_dir=new", "--data_dir=nowhere"], "nowhere does not exist"),
        (["--checkpoint_dir=new", "--recipe=a9"], "recipe 'a9' is unknown"),
        (["--checkpoint_dir=new", "--workers=0"], "workers 0 is too small"),
        (["--checkpoint_dir=new", "--model=inception_v3", "--size=64"], "cannot take images of 64 pixels"),
        (["--checkpoint_dir=new", "--batch_size=1", "--accumulate=4", "--model=resnet18"], "one value a channel"),
        (["--checkpoint_dir=checkpoints/log.jsonl"], "checkpoints/log.jsonl cannot be made"),
    ],
)
def test_refusals_lose_nothing(
    tree: Path, run: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    resumes = any(flag.startswith("--resume") for flag in extra)
    assert (resume if resumes else pretrain)(tree, *extra) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1, "one sentence"
    assert not {thread.name for thread in threading.enumerate()} & {"watchdog", "checkpoints", "signals"}
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert not list(Path("new").glob("*.pt"))
    if "one value" not in message:  # which only the first step meets
        assert not Path("new").exists()


def test_resuming_on_other_data_is_refused(
    tree: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tree, tmp_path / "other")
    (other / "train" / "cat" / "cat_3.JPEG").unlink()
    assert resume(other, f"--resume={run / 'latest.pt'}") == 1
    assert "the checkpoint has another number of training images (51) than this run (50)" in capsys.readouterr().err
    (other / "train" / "cat" / "another.JPEG").write_bytes((other / "train" / "cat" / "cat_4.JPEG").read_bytes())
    assert resume(other, f"--resume={run / 'latest.pt'}") == 1
    assert "the checkpoint has another fingerprint of the training images (" in capsys.readouterr().err
    fewer = shutil.copytree(tree, tmp_path / "fewer")
    (fewer / "val" / "cat" / "cat_3.JPEG").unlink()
    assert resume(fewer, f"--resume={run / 'latest.pt'}") == 1
    assert "the checkpoint has another fingerprint of the validation images (" in capsys.readouterr().err


@pytest.mark.parametrize("log_every", [1, 3, 50])
def test_what_diverged_reaches_no_file(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], log_every: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain(tree, "--lr=1e30", f"--log_every={log_every}", "--checkpoint_minutes=0") == 1
    printed = capsys.readouterr().err
    assert "became" in printed
    assert "start a new run with a lower --lr" in printed
    assert printed.count("\n") == 1
    assert "NaN" not in Path("checkpoints/log.jsonl").read_text()
    for checkpoint in Path("checkpoints").glob("*.pt"):
        for name, tensor in torch.load(checkpoint, weights_only=True)["model"].items():
            assert tensor.isfinite().all(), name


def test_a_full_disk_is_a_sentence_and_keeps_the_last_checkpoint(tree: Path, run: Path) -> None:
    """A limit on file sizes stands for the full disk: both reach torch's writer as an OSError."""
    before = (run / "latest.pt").read_bytes()
    state = torch.load(run / "latest.pt", weights_only=True)
    state["epoch"] = 1  # so that an epoch is left to train
    torch.save(state, run / "latest.pt")
    before = (run / "latest.pt").read_bytes()
    code = (
        "import resource, sys; from twistnet import train; from twistnet.__main__ import main; train._AT_THE_END_S = 1;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); sys.exit(main(sys.argv[1:]))"
    )
    flags = ("pretrain", f"--data_dir={tree}", "--device=cpu", f"--resume={run / 'latest.pt'}")
    ended = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert re.search(
        r"could not be written \(File too large\): (training goes on, )?the checkpoint of before stays", ended.stdout
    )
    assert re.fullmatch(
        r"error: latest\.pt (and best\.pt )?of .* could not be written \(File too large\): make room or choose another "
        r"disk; the checkpoint of before is whole, go on with --resume auto\.\n",
        ended.stderr,
    )
    assert (run / "latest.pt").read_bytes() == before
    assert not list(run.glob(".*.tmp"))


def test_going_on_in_another_precision_is_said(tree: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(run / "latest.pt", weights_only=True)
    scaler = {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    state |= {"epoch": 1, "dtype": "torch.float16", "scaler": scaler | {"_growth_tracker": 3}}
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = False
    torch.save(state, run / "latest.pt")
    capsys.readouterr()
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 0
    assert "Trained in torch.float16 so far; this device goes on in torch.float32" in capsys.readouterr().out
    groups = torch.load(run / "latest.pt", weights_only=True)["optimiser"]["param_groups"]
    assert all(group["fused"] for group in groups), "as this machine has it"


def test_a_log_that_a_power_cut_tore_does_not_stop_a_run(tree: Path, run: Path) -> None:
    log = run / "log.jsonl"
    whole = log.read_text().splitlines()
    log.write_text("\n".join(whole[:-1]) + "\n\0\0garbage\n" + whole[-1] + "\n")
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["kind"] for row in rows] == [*(json.loads(line)["kind"] for line in whole[:-1]), "start"]


def test_a_checkpoint_that_lacks_something_is_refused(
    tree: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(run / "latest.pt", weights_only=True)
    torch.save(state | {"optimiser": {"state": {}, "param_groups": []}}, run / "latest.pt")
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 1
    said = capsys.readouterr().err
    assert "latest.pt does not fit the model that its recipe names (ValueError: " in said
    assert said.count("\n") == 1
    del state["meter"]
    torch.save(state, run / "latest.pt")
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 1
    assert "latest.pt lacks meter" in capsys.readouterr().err


def test_without_its_best_a_resumed_run_finds_a_new_one(tree: Path, run: Path) -> None:
    state = torch.load(run / "latest.pt", weights_only=True)
    copied = run.parent / "copied"
    copied.mkdir()
    torch.save(state | {"epoch": 1, "best_top1": 1.0}, copied / "latest.pt")
    assert resume(tree, f"--resume={copied / 'latest.pt'}") == 0
    assert torch.load(copied / "best.pt", weights_only=True)["epoch"] == 2


def test_drawing_may_fail(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # importing it raises, as in a broken installation
    assert pretrain(tree, "--epochs=1") == 0
    assert "[Warning] curves.png could not be drawn: import of matplotlib.figure" in capsys.readouterr().out


def test_what_failed_before_a_checkpoint_can_be_started_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(tree, tmp_path / "copy")
    (copy / "train" / "cat" / "cat_3.JPEG").write_bytes(b"torn")
    assert pretrain(copy) == 1
    assert "cat_3.JPEG cannot be decoded" in capsys.readouterr().err
    assert Path("checkpoints/log.jsonl").exists()
    shutil.copy(tree / "train" / "cat" / "cat_3.JPEG", copy / "train" / "cat")
    assert pretrain(copy) == 0


@pytest.mark.parametrize("environment", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "busy"}])
def test_processes_that_cannot_meet_say_so(
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
        for name, value in (ranks | environment).items():
            monkeypatch.setenv(name, str(busy.getsockname()[1]) if value == "busy" else value)
        assert pretrain(tree) == 1
    printed = capsys.readouterr().err
    assert "the 2 processes cannot meet (" in printed
    assert printed.count("\n") == 1


def test_a_folder_that_another_process_writes_to_is_refused(
    tree: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunFolder(run)
    other.make()
    log = (run / "log.jsonl").read_bytes()
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 1
    assert f"another process is training into {run}" in capsys.readouterr().err
    assert (run / "log.jsonl").read_bytes() == log
    other.release()
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 0


def test_progress_is_said_where_there_is_no_terminal(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("twistnet.progress.NOTE_EVERY_S", 0.0)
    assert pretrain(tree, "--log_every=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "Training test_resnet on 51 images of 3 classes: 2 epochs of 4 steps, total batch 16 on 1 x"
    )
    noted = [line for line in lines if re.match(r"epoch 1/2: 15\.7%, loss \d\.\d+, \d+ img/s, 00:\d\d left", line)]
    assert len(noted) == 1, "16 of 102 images after the first step"


def test_what_a_kill_left_half_written_is_cleared(tree: Path, run: Path) -> None:
    torn = run / f".latest.pt.{'0123456789abcdef' * 2}.tmp"
    torn.write_bytes(b"half")
    (run / ".mine.tmp").write_bytes(b"not ours")
    assert resume(tree, f"--resume={run / 'latest.pt'}") == 0
    assert not torn.exists()
    assert (run / ".mine.tmp").exists()
    starts = [
        json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if json.loads(line)["kind"] == "start"
    ]
    assert [start["step"] for start in starts] == [0, 8]
    assert all(start["env"]["packages"]["torch"] for start in starts)


@pytest.mark.parametrize(("first_s", "share", "drawn"), [(30.0, 100, 1), (0.0, 0, 3), (0.0, 1e9, 2)])
def test_short_epochs_do_not_spend_their_time_in_drawing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_s: float, share: float, drawn: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reporting, "_SHORT_S", first_s)
    monkeypatch.setattr(reporting, "_DRAWN_SHARE", share)
    drawings: list[int] = []

    def draw(folder: RunFolder) -> None:
        drawings.append(sum(row["kind"] == "epoch" for row in folder.rows()))
        time.sleep(0.001)

    monkeypatch.setattr(reporting, "draw_curves", draw)
    assert pretrain(tree, "--epochs=3") == 0
    assert len(drawings) == drawn
    assert drawings[-1] == 3, "the last epoch is always drawn"
