"""What the benches are given: trees with an image that is none, converted sets, and loaders that are not installed."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benches import bench
from conversions import convert, sentence

from bench import decode as bench_decode
from bench import loaders as bench_loaders
from bench.loaders import System, loader_rates
from loaders import InputError, dali_graph, ffcv
from loaders.native.library import why_missing

Capture = pytest.CaptureFixture[str]


pytest_plugins = ("benches",)
pytestmark = pytest.mark.usefixtures("results")


def a_text(path: Path) -> None:
    path.write_text("no image at all")


def an_end_that_is_missing(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def a_scan_that_is_damaged(path: Path) -> None:
    """Its tables of Huffman codes say that there are more of them than bytes."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc4")
    data[at + 5 : at + 21] = b"\xff" * 16
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [a_text, an_end_that_is_missing, a_scan_that_is_damaged])
def test_a_bad_image_is_named_before_anything_is_measured(
    damage: Callable[[Path], None], tree: Path, tmp_path: Path, results: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    bad = copy / "train" / "cat" / "cat_3.JPEG"
    damage(bad)
    for name in ("all", "storage", "decode", "loaders", "stages", "conversion", "bookkeeping"):
        assert bench(name, f"--data_dir={copy}") == 1
        assert sentence(capsys).startswith(f"error: {bad} cannot be decoded (")
    assert not results.exists()


def test_only_the_images_that_are_decoded_need_be_whole(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    (left_out,) = set(range(51)) - set(np.random.default_rng(0).permutation(51)[:50].tolist())
    files = sorted((copy / "train").rglob("*.JPEG"))
    a_text(files[left_out])
    small = {"size": 32, "batch_size": 25, "rounds": 1, "seconds": 0.01, "workers": 1}
    bench_decode.decode(data_dir=copy, images=50, **small)
    with pytest.raises(InputError, match=f"{files[left_out]} cannot be decoded"):
        bench_decode.decode(data_dir=copy, images=51, **small)


def test_what_a_decoder_refuses_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    made = bench_decode.make_decoder

    def broken(*args: Any) -> Any:
        decoder = made(*args)
        monkeypatch.setattr(decoder, "decode", lambda *_: {1: "no reason"})
        return decoder

    monkeypatch.setattr(bench_decode, "make_decoder", broken)
    with pytest.raises(InputError, match=r"JPEG cannot be decoded \(by \w+: no reason\): mend or remove it"):
        bench_decode.decode(data_dir=tree, images=8, size=32, batch_size=4, rounds=1, seconds=0.01, workers=1)
    assert not results.exists()


@pytest.mark.parametrize("name", ["all", "decode", "loaders", "stages", "conversion", "bookkeeping"])
def test_a_converted_set_is_recognised(name: str, tree: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(tree, tmp_path / "converted") == 0
    capsys.readouterr()
    assert bench(name, f"--data_dir={tmp_path / 'converted'}") == 1
    said = sentence(capsys)
    assert "is a converted set (it holds manifest.json)" in said
    assert "name the tree that it was converted from" in said


def test_a_file_is_no_tree(tmp_path: Path, capsys: Capture) -> None:
    a_text(tmp_path / "file")
    assert bench("decode", f"--data_dir={tmp_path / 'file'}") == 1
    assert "is a file, no folder: name a tree" in sentence(capsys)


# --- decoders: what is written of them --------------------------------------------------------------------------------


def test_decoders_take_the_threads_of_their_rows_and_a_cores_time_is_of_the_cores_that_worked(
    tree: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    made, asked = bench_decode.make_decoder, []

    def noted(name: str, interpolation: str, threads: int) -> Any:
        asked.append(threads)
        return made(name, interpolation, threads)

    monkeypatch.setattr(bench_decode, "make_decoder", noted)
    monkeypatch.setattr(bench_decode, "POLICIES", {"original": "original"})
    bench_decode.decode(data_dir=tree, images=51, size=64, batch_size=25, rounds=1, seconds=0.1, workers=3)
    with (results / "decode.csv").open() as file:
        found = list(csv.DictReader(file))
    threads = [int(row["options"].partition("threads=")[2].split()[0]) for row in found]
    assert asked == threads
    assert set(threads) == {1, 2, 3}
    for row in found:
        core_s = float(row["cpu_share"]) * int(row["cores"]) / float(row["images_per_s"])
        # The share is rounded to a thousandth.
        assert float(row["us_of_a_core"]) == pytest.approx(1e6 * core_s, rel=0.02, abs=1)
    said = capsys.readouterr().out
    assert "original, 1 thread: reference: " in said
    assert "original, 3 threads: reference: " in said


def test_decoders_that_are_not_installed_are_named(
    tree: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(ffcv, "why_missing", lambda: "FFCV is not installed: pip install 'twistnet[ffcv]'")
    monkeypatch.setattr(dali_graph, "why_missing", lambda: "DALI cannot be used: pip install 'twistnet[dali]'")
    monkeypatch.setattr(bench_decode, "POLICIES", {"original": "original"})
    bench_decode.decode(data_dir=tree, images=8, size=32, batch_size=4, rounds=1, seconds=0.01, workers=1)
    said = capsys.readouterr().out
    assert "Left out: FFCV is not installed: pip install 'twistnet[ffcv]'.\n" in said
    assert "Left out: DALI cannot be used: pip install 'twistnet[dali]'.\n" in said
    with (results / "decode.csv").open() as file:
        names = ["native", "reference"] if why_missing() is None else ["reference"]
        assert [row["what"] for row in csv.DictReader(file)] == names


# --- loaders, in processes of their own -------------------------------------------------------------------------------


def spec(path: Path) -> dict[str, Any]:
    return {"path": str(path), "batch_size": 8, "size": 32, "workers": 1, "seconds": 0.01}


def hide(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed, in processes that are started from here."""
    folder.mkdir(exist_ok=True)
    text = f'raise ModuleNotFoundError("No module named {module!r}", name={module!r})\n'
    (folder / f"{module}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")


def test_a_loader_that_is_not_installed_is_left_out(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    hide("webdataset", tmp_path / "hidden", monkeypatch)
    hide("ffcv", tmp_path / "hidden", monkeypatch)
    peers = {"webdataset": System(name="webdataset_loader"), "FFCV": System(name="ffcv_loader")}
    ours = System(name="ours", options={"decoder": "reference"})
    assert list(loader_rates({"reference": ours, **peers}, spec(tree), 1, 0)) == ["reference"]
    said = capsys.readouterr().out
    assert "Left out: webdataset: No module named 'webdataset': pip install webdataset.\n" in said
    assert "Left out: FFCV: No module named 'ffcv': pip install 'twistnet[ffcv]'.\n" in said
    with pytest.raises(InputError, match="no loader of this set is installed"):
        loader_rates({"FFCV": peers["FFCV"]}, spec(tree), 1, 0)


def test_sets_that_ffcv_writes_are_left_out_without_it_unless_they_are_asked_for(
    tree: Path, tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    hide("ffcv", tmp_path / "hidden", monkeypatch)
    one = {"reference": System(name="ours", options={"decoder": "reference"})}
    monkeypatch.setattr(bench_loaders, "SYSTEMS", {"tree": one, "500 px .beton": one})
    small = [f"--data_dir={tree}", "--batch_size=8", "--size=32", "--rounds=1", "--seconds=0.01", "--workers=1"]
    assert bench("loaders", *small, "--sets=500 px .beton") == 1
    assert "pip install 'twistnet[ffcv]'" in sentence(capsys)
    assert not results.exists()
    assert bench("loaders", *small) == 0
    assert "Left out: 500 px .beton, 400 px .beton, raw 256 px .beton: a .beton needs FFCV" in capsys.readouterr().out
    with (results / "loaders.csv").open() as file:
        assert [row["options"].split()[0] for row in csv.DictReader(file)] == ["set=tree"]


def test_a_loader_that_fails_is_one_sentence(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    bad = copy / "train" / "cat" / "cat_3.JPEG"
    a_text(bad)
    ours = System(name="ours", options={"decoder": "reference"})
    with pytest.raises(InputError, match=f"^the loader reference has failed: {bad} cannot be decoded .*[^.]\\.$"):
        loader_rates({"reference": ours}, spec(copy), 1, 0)
    theirs = System(name="torchvision_loader")
    with pytest.raises(InputError, match=r"^the loader theirs has failed: .*cannot identify image file") as told:
        loader_rates({"theirs": theirs}, spec(copy), 1, 0)
    assert "\n" not in str(told.value)
