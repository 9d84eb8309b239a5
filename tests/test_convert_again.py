"""A conversion started again or in parts, beside others, and values that it cannot take."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from conversions import Capture, convert, digests, names, sentence, times, webdataset_tar

from convert.photographs import make_miniature_dtd
from loaders import open_store
from twistnet.__main__ import main

pytest_plugins = ("conversions",)


# Started again


def test_again_when_all_is_done(images: Path, whole: Path, capsys: Capture) -> None:
    before = times(whole)
    assert convert(images, whole) == 0
    assert "converted already" in capsys.readouterr().out
    assert times(whole) == before
    (whole / ".lock").touch()  # of a kill
    assert convert(images, whole) == 0
    assert ".lock" not in names(whole)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--images=max_side=90"], ["images", "original", "max_side=90"]),
        (["--seed=7"], ["seed", "0", "7"]),
        (["--quality=80"], ["quality", "90", "80"]),
        (["--formats=beton"], ["formats", "shards", "beton (mode jpg"]),
        (["--formats=shards,beton", "--beton=raw"], ["formats", "shards", "shards,beton (mode raw"]),
        (["--min_shards=4"], ["3 shards, fewer than 4"]),
    ],
)
def test_a_finished_set_of_other_settings(
    flags: list[str], named: list[str], images: Path, whole: Path, capsys: Capture
) -> None:
    before = times(whole)
    assert convert(images, whole, *flags) == 1
    said = sentence(capsys)
    assert all(word in said for word in [*named, "choose another --out"])
    assert times(whole) == before


def test_another_conversion_begun_there(images: Path, broken: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/3") == 0
    before = times(out)
    for flags, held, given in (
        (["--seed=7"], "seed 0", "not 7"),
        (["--images=short_side=64"], "images original", "not short_side=64"),
        (["--min_shards=4"], "shards 3", "not 4"),
    ):
        assert convert(images, out, *flags) == 1
        said = sentence(capsys)
        assert held in said
        assert given in said
    (broken / "val" / "cat" / "cat_0.JPEG").unlink()
    assert convert(broken, out) == 1
    assert "holds a conversion of val begun with" in sentence(capsys)
    assert times(out) == before


def test_a_split_that_does_not_belong_is_refused_at_once(
    images: Path, whole: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "set"))
    source = tmp_path / "tree"
    shutil.copytree(images / "val", source / "test")
    before = times(out)
    assert convert(source, out, "--images=short_side=64") == 1
    said = sentence(capsys)
    assert "images original" in said
    assert "short_side=64" in said
    assert times(out) == before


# Parts


def test_parts_in_any_order_make_the_whole(images: Path, whole: Path, tmp_path: Path, capsys: Capture) -> None:
    """On machines of their own, copied together, and in one folder beside temporary files of others."""
    machines = [tmp_path / "one", tmp_path / "two"]
    out = tmp_path / "out"
    for part, folder in ((3, machines[0]), (1, machines[1]), (2, machines[0])):
        assert convert(images, folder, f"--part={part}/3") == 0
        assert not (folder / "manifest.json").exists()
    shutil.copytree(machines[0], out)
    assert main(["convert", "merge", f"--out={out}"]) == 1
    said = sentence(capsys)
    assert "1 of 3 shards of val are missing, the first val-000000.tar" in said
    shutil.copytree(machines[1], out, dirs_exist_ok=True)
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert digests(out) == digests(whole)
    assert not [path for path in out.iterdir() if path.is_dir()]
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert "has no parts that are not joined" in capsys.readouterr().out


@pytest.mark.parametrize("formats", ["shards", "beton"])
def test_a_merge_that_was_killed_on_its_last_steps(formats: str, images: Path, tmp_path: Path) -> None:
    if formats == "beton":
        pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/1", f"--formats={formats}") == 0
    plan = (out / ".val.unfinished" / "plan.json").read_bytes()
    assert main(["convert", "merge", f"--out={out}"]) == 0
    expected = digests(out)
    (out / ".val.unfinished").mkdir()
    (out / ".val.unfinished" / "plan.json").write_bytes(plan)
    (out / ".val.unfinished" / "val-000001.json").write_bytes(b"{}")
    (out / ".lock").touch()
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert digests(out) == expected
    assert not [name for name in names(out) if name.startswith(".")]


def test_what_a_kill_left_goes_before_the_disk_is_asked_for_room(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/3") == 0
    left = [out / f".val-000002.tar.{'0' * 32}.tmp", out / ".val.beton.tmp"]
    for path in left:
        path.write_bytes(b"half")
    monkeypatch.setattr(
        "convert.estimate.shutil.disk_usage",
        lambda _: SimpleNamespace(free=0 if any(path.exists() for path in left) else 1 << 40),
    )
    assert convert(images, out) == 0


def test_a_module_of_ours_name_in_the_working_directory(images: Path, whole: Path, tmp_path: Path) -> None:
    """As where people keep a script convert.py beside their data; the command itself does not look there."""
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    (tmp_path / "convert.py").write_text("print('mine')\nraise SystemExit(3)\n")
    program = (
        "import sys; sys.path[:] = [path for path in sys.path if path]; "
        "from twistnet.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    flags = [f"--data_dir={images}", "--out=set", "--min_shards=3", "--workers=2", "--formats=shards,beton"]
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mine" not in done.stdout
    assert {name: digest for name, digest in digests(tmp_path / "set").items() if name.endswith("tar")} == {
        name: digest for name, digest in digests(whole).items() if name.endswith("tar")
    }


def test_a_part_leaves_alone_what_another_writes(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/3") == 0
    mark = "0" * 32
    others = [out / f".val-000002.tar.{mark}.tmp", out / ".val.unfinished" / f".val-000002.json.{mark}.tmp"]
    own = [out / f".val-000001.tar.{mark}.tmp", out / ".val.unfinished" / f".val-000001.json.{mark}.tmp"]
    for path in (*others, *own):
        path.write_bytes(b"half")
    assert convert(images, out, "--part=2/3") == 0
    assert [path.exists() for path in (*others, *own)] == [True, True, False, False]
    assert convert(images, out, "--part=3/3") == 0
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert digests(out) == digests(whole)


def test_a_part_needs_room_for_itself_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    stored = sum(path.stat().st_size for path in images.rglob("*.JPEG"))
    monkeypatch.setattr("convert.estimate.shutil.disk_usage", lambda _: SimpleNamespace(free=stored // 2))
    assert convert(images, tmp_path / "out") == 1
    assert "GB free" in sentence(capsys)
    assert convert(images, tmp_path / "out", "--part=2/3") == 0


# Values


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--quality=0", "quality 0 is impossible: take 1 to 100"),
        ("--quality=101", "quality 101"),
        ("--images=short_side=10", "short_side=10 is impossible: take 32"),
        ("--images=raw", "raw pixels go into a .beton: write --formats beton --beton raw"),
        ("--images=small", "'small' is unknown: write original"),
        ("--part=0/2", "part 0/2 is impossible"),
        ("--part=3/2", "part 3/2 is impossible"),
        ("--part=2", "'2' is no i/n"),
        ("--part=-1/2", "'-1/2' is no i/n"),
        ("--min_shards=0", "min_shards 0 is too small: take at least 1"),
        ("--shard_size=0", "shard_size 0 GB is too small: take at least 0.001"),
        ("--shard_size=-1", "shard_size -1 GB is too small"),
        ("--shard_size=1e300", "shard_size 1e+300 GB is too large: take at most 1000"),
        ("--workers=0", "workers 0 is too small: take at least 1"),
        ("--formats=tar", "format tar is unknown: write shards, beton"),
        ("--max_bad=1.5", "max_bad 1.5 is impossible"),
        ("--formats=beton --beton=proportion --proportion=2", "proportion 2.0 is impossible"),
        ("--formats=beton --proportion=0.3", "--proportion 0.3 has no effect without --beton proportion"),
        ("--beton=raw", "add --formats beton or shards,beton"),
        ("--seed=-1", "seed -1 is out of range"),
        ("--splits=test", "no split 'test'"),
        ("--out={images}", "is the data set's own folder: name another"),
    ],
)
def test_values_out_of_range(flag: str, named: str, images: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = flag.format(images=images).split()
    out = [] if flag.startswith("--out") else [f"--out={tmp_path / 'out'}"]
    assert main(["convert", f"--data_dir={images}", *out, *flags]) == 1
    assert named in sentence(capsys)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_no_workers(command: str, images: Path, whole: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = [f"--data_dir={whole}"] if command == "check" else [f"--data_dir={images}", f"--out={tmp_path / 'out'}"]
    assert main(["convert", command, *flags, "--workers=0"]) == 1
    assert "workers 0 is too small" in sentence(capsys)


@pytest.mark.parametrize("command", ["merge", "check", "show"])
def test_a_folder_that_is_no_set(command: str, tmp_path: Path, capsys: Capture) -> None:
    flag = "--out" if command == "merge" else "--data_dir"
    assert main(["convert", command, f"{flag}={tmp_path / 'nothing'}"]) == 1
    assert re.search(r"(holds no parts|does not exist)", sentence(capsys))


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
for place in sys.argv[2:]:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(place))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def writing(out: Path, *shards: int) -> Iterator[None]:
    """Another process that holds these shards."""
    command = [sys.executable, "-c", HOLD, str(out / ".val.unfinished" / ".lock"), *map(str, shards)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_a_shard_that_another_process_writes(images: Path, whole: Path, tmp_path: Path, capsys: Capture) -> None:
    """Whichever division of the work the two processes follow."""
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/3") == 0
    with writing(out, 1):
        for part in ("2/3", "2/2", "1/1"):
            capsys.readouterr()
            assert convert(images, out, f"--part={part}") == 1, part
            said = sentence(capsys)
            assert said == f"error: another process is writing the same shards to {out}: wait for it, or end it first."
        assert convert(images, out) == 1
        assert main(["convert", "merge", f"--out={out}"]) == 1
        assert convert(images, out, "--part=1/2") == 0
    assert convert(images, out, "--part=2/2") == 0
    with writing(out, 2):
        assert main(["convert", "merge", f"--out={out}"]) == 1
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert digests(out) == digests(whole)


def test_two_splits_that_are_finished_at_once(images: Path, whole: Path, tmp_path: Path) -> None:
    """The manifest that was written while this one waited is added to, not overwritten."""
    out = Path(shutil.copytree(whole, tmp_path / "set"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "train").symlink_to(images / "val")
    manifest = (out / "manifest.json").read_bytes()
    (out / "manifest.json").unlink()
    lock = (out / ".lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    command = [sys.executable, "-m", "twistnet", "convert", f"--data_dir={tmp_path / 'tree'}", f"--out={out}"]
    with subprocess.Popen([*command, "--min_shards=3", "--workers=1"], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (out / ".train.unfinished" / "train-000002.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        (out / "manifest.json").write_bytes(manifest)
        lock.close()
        assert process.wait(60) == 0
    assert list(json.loads((out / "manifest.json").read_text())["splits"]) == ["train", "val"]
    assert not [path for path in names(out) if path.startswith(".")]
    assert len(open_store(out, "val")) == len(open_store(out, "train")) == 30


def test_parts_of_other_settings_are_not_joined(images: Path, tmp_path: Path, capsys: Capture) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert convert(images, out, "--part=1/3") == 0
    assert convert(images, out, "--part=2/3") == 0
    assert convert(images, other, "--part=3/3", "--seed=5") == 0
    for path in (*other.glob("val-*"), *(other / ".val.unfinished").glob("val-*")):
        shutil.copy(path, out / path.relative_to(other))
    capsys.readouterr()
    assert main(["convert", "merge", f"--out={out}"]) == 1
    assert "val-000002.tar was converted with other settings than the rest" in sentence(capsys)
    assert not (out / "manifest.json").exists()


def test_torn_records_count_as_unfinished(images: Path, whole: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/3") == 0
    record = out / ".val.unfinished" / "val-000000.json"
    record.write_bytes(record.read_bytes()[:40])
    capsys.readouterr()
    assert main(["convert", "merge", f"--out={out}"]) == 1
    assert "3 of 3 shards of val are missing, the first val-000000.tar" in sentence(capsys)
    plan = out / ".val.unfinished" / "plan.json"
    text = plan.read_bytes()
    plan.write_bytes(text[:40])
    assert convert(images, out) == 1
    assert "plan.json is torn" in sentence(capsys)
    plan.write_bytes(text)
    assert convert(images, out) == 0
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", "a/b"])
def test_a_class_that_is_no_folders_name(name: str, tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "source"
    webdataset_tar(source / "x-train-0.tar")
    (source / "classes.txt").write_text(f"{name}\nother\n")
    assert main(["convert", "prepare", f"--data_dir={source}", f"--out={tmp_path / 'deep' / 'out'}"]) == 1
    assert f"has a class named {name!r}" in sentence(capsys)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_set_with_folds_is_converted_again_and_counted(tmp_path: Path, capsys: Capture) -> None:
    """Its one split is called "all", and the folds hold the same images of the same labels as those of the folder."""
    dtd = make_miniature_dtd(tmp_path / "dtd")
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main(["convert", f"--data_dir={dtd}", f"--out={once}", "--workers=1", "--min_shards=1"]) == 0
    again = ["convert", f"--data_dir={once}", f"--out={twice}", "--images=max_side=64", "--workers=1", "--min_shards=1"]
    assert main(again) == 0
    for split in ("train1", "val1", "test1", "test10"):
        folder, small = open_store(dtd, split), open_store(twice, split)
        of_folder = {Path(folder.key(i)).stem: int(folder.labels[i]) for i in range(len(folder))}
        of_small = {Path(small.key(i).split(":")[-1]).stem: int(small.labels[i]) for i in range(len(small))}
        assert of_small == of_folder
    assert small.classes == folder.classes
    capsys.readouterr()
    main(["convert", "count", f"--data_dir={once}"])
    assert "all: 564 images of 47 classes, 12 to 12 a class" in capsys.readouterr().out
