"""The bench: its checks find faults, its rows are whole, and without a card it says so."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import skimage.data
import torch
from PIL import Image

from bench import augment as bench_augment
from bench import conversion as bench_conversion
from bench import gpu as bench_gpu
from bench import index as bench_index
from bench import learning as bench_learning
from bench import limits as bench_limits
from bench import loader_process, rows
from bench import loaders as bench_loaders
from bench import stages as bench_stages
from bench import steps as bench_steps
from bench import training as bench_training
from bench.commands import COMMANDS
from bench.gpu_augmenting import augment_rates
from bench.learning_set import make_learning_set, photographs_in
from bench.peers import separate_heads
from bench.timing import Rate, measure
from loaders import InputError, dali_graph, open_store
from loaders.augment import Augment
from loaders.native.library import why_missing
from twistnet import environment
from twistnet.cli import run
from twistnet.recipes import named
from twistnet.stci import MultiHeadSTCI

CPU = torch.device("cpu")
ONE = torch.ones(())
SMALL = named("guide").with_changes(batch_size=32, size=32)


def test_rounds_are_interleaved_after_a_warm_up() -> None:
    calls: list[str] = []

    def run(name: str) -> int:
        calls.append(name)
        time.sleep(0.01)
        return 3

    rates = measure({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3, seconds=0.005, device=CPU)
    assert calls == ["a", "b"] * 4
    assert rates["a"].n == 3
    assert 0 < rates["a"].low <= rates["a"].median <= rates["a"].high < 300


def test_rows_are_appended_with_what_they_were_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    rates = {"ours": Rate(n=5, median=30, low=28, high=31), "peer": Rate(n=5, median=20, low=19, high=22)}
    for _ in range(2):
        path = rows.append_rates("x", rates, {"batch": 4}, CPU)
    with path.open() as file:
        found = list(csv.DictReader(file))
    assert [row["what"] for row in found] == ["ours", "peer"] * 2
    assert found[0]["ratio"] == "1.5"
    assert f"torch={torch.__version__.partition('+')[0]}" in found[0]["versions"]


def test_rows_do_not_make_the_commit_of_the_next_rows_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    assert environment.commit() is None
    (tmp_path / "bench" / "results").mkdir(parents=True)
    files = tmp_path / "bench" / "results" / "x.csv", tmp_path / "code.py"
    for file in files:
        file.write_text("one\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=one")
    clean = git("rev-parse", "HEAD")[:12]
    assert environment.commit() == clean
    files[0].write_text("two\n")
    assert environment.commit() == clean
    files[1].write_text("two\n")
    assert environment.commit() == f"{clean}-dirty"


def test_checks_pass_where_nothing_is_wrong(tree: Path) -> None:
    bench_gpu.check_model(CPU)
    bench_gpu.check_augment(CPU, SMALL)
    bench_gpu.check_loader(CPU, tree, SMALL)
    bench_gpu.check_step(CPU, SMALL)


def test_checks_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Augment.__call__
    calls = iter((0.0, 0.0, 0.0, 0.1))
    monkeypatch.setattr(Augment, "__call__", lambda *args: right(*args) + next(calls))
    with pytest.raises(InputError, match=r"augmentation differ from the CPU's by 0\.1"):
        bench_gpu.check_augment(CPU, SMALL)
    monkeypatch.setattr(
        bench_steps.TrainStep, "_step", lambda _, batch, __, ___, count: count(batch.images, ONE, batch)
    )
    with pytest.raises(InputError, match="20 steps"):
        bench_gpu.check_step(CPU, SMALL)


def test_rates_of_every_stage_can_be_measured(tree: Path) -> None:
    for rates in (bench_gpu.loader_rates(CPU, tree, SMALL, 1, 0.01),):
        assert len(rates) == 2
        assert all(rate.median > 0 for rate in rates.values())


def test_steps_are_measured_with_and_without_data(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    fast = {"rounds": 1, "seconds": 0.01, "size": 32, "device": "cpu"}
    models = (bench_steps.SEPARATE, "twistnet18", "test_resnet")
    bench_steps.step(models=models, batch_sizes=(4,), precisions=("float32", "bfloat16"), **fast)
    with (tmp_path / "step.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["what"] for row in found[:3]] == [f"step: {name}" for name in models]
    assert [row["ratio"] for row in found if row["what"] == "step: test_resnet"] == ["1.0", "1.0"]
    assert sum("stage_4" in row["options"] for row in found) == 2
    bench_training.train(data_dir=tree, model="test_resnet", batch_size=8, compile="off", **fast)
    with (tmp_path / "train.csv").open() as file:
        found = list(csv.DictReader(file))
    stages = ["read alone", "decode alone", "upload alone", "augment alone"]
    beside = ["steps beside decoding", "decode beside steps"]
    assert [row["what"] for row in found] == ["end to end", "loader alone", *stages, *beside, "steps on one batch"]
    (bound,), (simulated,) = ({row[column] for row in found} for column in ("bound_by", "simulated"))
    said = capsys.readouterr().out
    assert f"bound by: {bound}" in said
    assert f"{float(simulated):,.1f} img/s end to end" in said
    assert 0 < float(simulated) <= 1.01 * float(found[-1]["images_per_s"])


def test_the_peer_head_by_head_computes_the_same() -> None:
    torch.manual_seed(0)
    ours, peer = MultiHeadSTCI(16), separate_heads.SeparateHeads(16)
    ours.load_state_dict(peer.state_dict(), strict=False)  # whose names are the authors'
    h = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(ours(h), peer(h), rtol=1e-4, atol=1e-4)


def test_models_learn_from_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes, of which no validation pixel is in training: a photograph's left and right parts differ here."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for name, photograph in (("cat", skimage.data.chelsea()), ("coffee", skimage.data.coffee())):
        (tmp_path / "from").mkdir(exist_ok=True)
        Image.fromarray(photograph).resize((1500, 1000)).save(tmp_path / "from" / f"{name}.jpg")
    Image.new("RGB", (300, 300)).save(tmp_path / "from" / "small.jpg")
    tree = make_learning_set(photographs_in(tmp_path / "from"), tmp_path / "set", train=3, val=2)
    again = make_learning_set(photographs_in(tmp_path / "from"), tmp_path / "again", train=3, val=2)
    files = sorted(path.relative_to(tree) for path in tree.rglob("*.JPEG"))
    assert len(files) == 10
    assert all((tree / file).read_bytes() == (again / file).read_bytes() for file in files)
    bench_learning.learning(
        photographs=tmp_path / "from", models=("test_resnet",), seeds=(0, 1), epochs=2, size=32, per_class=20
    )
    with (tmp_path / "learning.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(row["model"], row["seed"], row["val_samples"]) for row in found] == [
        ("test_resnet", "0", "8"),
        ("test_resnet", "1", "8"),
    ]
    assert "2 classes, 40 images, 2 epochs at 32 px" in capsys.readouterr().out
    with pytest.raises(InputError, match="holds 0 photographs of 900 pixels"):
        photographs_in(tmp_path / "set")


def test_a_ratio_is_that_of_rounds_side_by_side() -> None:
    """A machine that becomes ten times as fast changes no ratio."""
    ours, theirs = (
        Rate(n=3, median=m, low=1, high=100, each=each) for m, each in ((20, (2, 20, 40)), (10, (1, 10, 10)))
    )
    assert ours.ratio_to(theirs) == 2
    assert Rate(n=1, median=6, low=6, high=6).ratio_to(theirs) == 0.6


def test_augmentation_is_measured_beside_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    before, seen = torch.get_num_threads(), set()

    def measured(*all_: Any, **options: Any) -> dict[str, Rate]:
        seen.add(torch.get_num_threads())  # which the compiled library asks for too
        return measure(*all_, **options)

    monkeypatch.setattr(bench_augment, "measure", measured)
    try:
        bench_augment.augment(rounds=1, seconds=0.01, batch_size=8, size=64, workers=3)
    finally:
        torch.set_num_threads(before)
    assert seen == {3}
    with (tmp_path / "augment.csv").open() as file:
        found = {row["what"]: row for row in csv.DictReader(file)}
    assert len(found) == 11
    assert sum("torchvision v2, each image" in what for what in found) == 2
    assert all(row["options"].endswith("size=64 workers=3") for row in found.values())
    drawn = found["draws and tables: the guide's"]
    assert drawn["options"].startswith("batch=1024 ")
    milliseconds = 1024e3 / float(drawn["images_per_s"])
    assert f"Draws and tables of 1,024 samples, the guide's: {milliseconds:.2f} ms." in capsys.readouterr().out


def test_augmentation_on_a_card_is_measured_beside_a_copy(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(augment_rates(CPU, torch.bfloat16, (8, 16), 32, 1, 0.01))
    names = ("augment", "RandAugment", "jitter and normalise")
    assert [(name, more["batch"]) for name, more, _ in found] == [(name, count) for count in (8, 16) for name in names]
    assert all("copy of as many bytes" in rates for name, _, rates in found if name == "augment")
    assert all(rate.median > 0 for _, _, rates in found for rate in rates.values())
    printed = capsys.readouterr().out
    for module, package in (("kornia", "kornia"), ("triton_augment", "triton-augment")):
        left_out = printed.count(f"Left out: {package} is not installed (pip install {package}).")
        assert left_out == (importlib.util.find_spec(module) is None)


def test_opening_is_measured_on_what_all_readers_can_open(tmp_path: Path) -> None:
    reader = pytest.importorskip("ffcv.reader", reason="needs FFCV", exc_type=ImportError)
    rates = bench_index.index_rates(tmp_path, 1234, 1)
    assert list(rates) == ["shards store", "beton store", "FFCV Reader"]
    assert all(rate.median > 0 for rate in rates.values())
    assert reader.Reader(str(tmp_path / "train.beton")).num_samples == 1234
    assert len(open_store(tmp_path / "shards", "train")) == len(open_store(tmp_path / "train.beton", "train")) == 1234


def test_loaders_are_measured_in_processes_of_their_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    few = {name: bench_loaders.SYSTEMS["tree"][name] for name in ("native", "torchvision v2 uint8")}
    monkeypatch.setattr(bench_loaders, "SYSTEMS", {"tree": few})
    bench_loaders.loaders(data_dir=tree, batch_size=8, size=32, rounds=2, seconds=0.01, workers=1, sets=("tree",))
    with (tmp_path / "loaders.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["what"] for row in found] == list(few)
    assert found[1]["ratio"] == "1.0"
    assert all(float(row["images_per_s"]) > 0 and float(row["first_batch_s"]) > 0 for row in found)
    assert all(50 < int(row["memory_mib"]) < 20_000 for row in found)
    assert f"tree of {tree.name}: native:" in capsys.readouterr().out
    with pytest.raises(InputError, match="set 'x' is unknown: choose from tree"):
        bench_loaders.loaders(data_dir=tree, sets=("x",))


def test_memory_that_cannot_be_limited_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_limits, "ROOT", tmp_path / "none")
    with (
        pytest.raises(InputError, match=r"memory cannot be limited .*run as the superuser"),
        bench_limits.memory_group(9, 0),
    ):
        pass


@pytest.mark.skipif(why_missing() is not None, reason="needs the compiled library")
def test_each_stage_of_a_decode_is_measured(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    bench_stages.stages(data_dir=tree, rounds=1, images=16, seconds=0.01)
    with (tmp_path / "stages.csv").open() as file:
        cost = {row["what"]: float(row["us_per_image"]) for row in csv.DictReader(file)}
    assert len(cost) == 4
    assert all(part > 0 for part in cost.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a card")
def test_without_a_card_it_says_so() -> None:
    found = subprocess.run([sys.executable, "-m", "bench", "gpu"], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == "error: this machine has no CUDA card: run python -m bench gpu where there is one.\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["stages", "--rounds=0"], "--rounds 0 is too small: take at least 1"),
        (["stages", "--size=-1"], "--size -1 is too small"),
        (["bookkeeping", "--epochs=0"], "--epochs 0 is too small"),
        (["loaders", "--batch_size=0"], "--batch_size 0 is too small"),
        (["loaders", "--seconds=-1"], "--seconds -1.0 is too small: take more than 0"),
        (["loaders", "--memory=-1"], "--memory -1.0 is impossible"),
        (["loaders", "--data_dir=nowhere"], "nowhere has no folder train/"),
        (["gpu", "--rounds=0"], "--rounds 0 is too small"),
        (["index", "--samples=0"], "--samples 0 is too small"),
        (["conversion", "--rounds=0"], "--rounds 0 is too small"),
        (["augment", "--workers=0"], "--workers 0 is too small"),
        (["storage", "--images=0"], "--images 0 is too small"),
        (["decode", "--size=0"], "--size 0 is too small"),
        (["upload", "--rounds=0"], "--rounds 0 is too small"),
        (["compare", "none.csv", "none.csv"], "none.csv cannot be read as rows"),
        (["compare", "20010101T000000", "x"], "has no rows of 20010101T000000"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, COMMANDS, "python -m bench") == 1
    assert message in capsys.readouterr().err


def test_loading_on_a_card_is_measured_beside_dali(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where all of it runs too."""
    monkeypatch.setattr(bench_gpu, "THREADS", (1, 2))
    bench_gpu.check_decoders(CPU, tree)
    found = {}
    for name, more, rates in bench_gpu.loading(CPU, tmp_path, 8, 32, 1, 0.01, images=28):
        found[name, more.get("set"), more.get("threads")] = set(rates)
        assert all(rate.median > 0 for rate in rates.values())
    shards, sets = {"native", "dali", "dali+native", "DALI"}, ("original", "short_side=256")
    assert found[("upload", None, None)] == {"paged"}
    assert all(found["raw 256 px", None, threads] == {"device", "native"} for threads in (1, 2))
    if dali_graph.why_missing() is None:
        assert all(found["shards", each, threads] == shards for each in sets for threads in (1, 2))
        assert all(len(found["decode", each, 2]) == 4 for each in sets)


@pytest.mark.gpu
def test_everything_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    bench_gpu.gpu(batch_size=32, size=64, rounds=1, seconds=0.1)
    assert (tmp_path / "gpu.csv").exists()


def test_conversion_is_measured_beside_its_peers(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="needs FFCV")
    linked = bench_conversion.link(tree, tmp_path / "linked", 2)
    assert len(list(linked.rglob("*.JPEG"))) == 102
    for rates in (
        bench_conversion.copy_rates(linked, tmp_path / "copy", 1, 1),
        bench_conversion.encode_rates(tree, tmp_path / "encode", 1, 1),
    ):
        assert len(rates) == 2
        assert all(rate.median > 0 for rate in rates.values())


def test_a_loader_is_at_rest_when_nothing_works_for_it_any_more() -> None:
    code = "import time; print(flush=True); end = time.perf_counter() + 0.7\nwhile time.perf_counter() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.perf_counter()
        rested = loader_process.at_rest()
        assert 0.5 < rested - begun < time.perf_counter() - begun


def test_a_loader_that_never_rests_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_process, "_RESTLESS_S", 0.3)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RuntimeError, match=r"still works 0\.3 s after its last batch"):
            loader_process.at_rest()
        process.kill()
