"""A source that is torn, hostile or edited meanwhile: one sentence, an exit code of 1, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import ilsvrc
import pytest
from conversions import Capture, convert, digests, names, quarantine, sentence, times, webdataset_tar
from test_convert_images import encoded, photograph, png_header

from convert.images import ImagePolicy
from convert.scan import Member
from convert.shard import ShardTask, read_bytes, write_shard
from convert.sources import find_source
from loaders import InputError, Order
from twistnet.__main__ import main

DATA = ilsvrc.make_ilsvrc(train_per_class=3, num_val=10)

pytest_plugins = ("conversions",)


def test_a_truncated_archive(tmp_path: Path, capsys: Capture) -> None:
    source = ilsvrc.write_archives(tmp_path / "archives", DATA)
    archive = source / "ILSVRC2012_img_train.tar"
    os.truncate(archive, archive.stat().st_size // 2)
    assert convert(source, tmp_path / "out", "--splits=train") == 1
    said = sentence(capsys)
    assert str(archive) in said
    assert "download" in said
    assert not (tmp_path / "out").exists()


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("a.jpg")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (["../a.jpg", "../a.cls"], "'../a.jpg'"),
        (["x/../../a.jpg"], "'x/../../a.jpg'"),
        (["/tmp/a.jpg", "/tmp/a.cls"], "'/tmp/a.jpg'"),
        ([link(tarfile.SYMTYPE)], "symbolic link"),
        ([link(tarfile.LNKTYPE)], "hard link"),
        (["good.jpg"], "twice"),
        (["good.png"], "'good'"),
        (["a.jpg"], "'a'"),  # no label
        (["a.cls"], "'a'"),  # no image
    ],
)
def test_hostile_tars(members: list[tarfile.TarInfo | str], named: str, tmp_path: Path, capsys: Capture) -> None:
    tar = webdataset_tar(tmp_path / "source" / "train-0.tar", *members)
    assert convert(tar.parent, tmp_path / "out", "--source=webdataset") == 1
    said = sentence(capsys)
    assert str(tar) in said
    assert named in said
    assert names(tmp_path) == {"source"}


def test_one_key_in_two_tars(tmp_path: Path, capsys: Capture) -> None:
    tar = webdataset_tar(tmp_path / "source" / "train-0.tar")
    shutil.copy(tar, tar.with_name("train-1.tar"))
    assert convert(tar.parent, tmp_path / "out") == 1
    assert "'good'" in sentence(capsys)


def test_names_that_would_be_one_in_a_shard(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    image = next((broken / "val" / "cat").iterdir())
    for name in ("two words.JPEG", "two_words.JPEG"):
        shutil.copy(image, image.with_name(name))
    assert convert(broken, tmp_path / "out") == 1
    said = sentence(capsys)
    assert "'cat/two words'" in said
    assert "'cat/two_words'" in said
    image.with_name("two_words.JPEG").unlink()
    assert convert(broken, tmp_path / "out") == 0


def test_names_that_are_no_utf8(broken: Path, tmp_path: Path) -> None:
    folder = os.fsencode(broken / "val" / "cat")
    os.rename(os.path.join(folder, b"cat_0.JPEG"), os.path.join(folder, b"caf\xe9.JPEG"))
    out = tmp_path / "out"
    assert convert(broken, out) == 0
    found = b"".join(path.read_bytes() for path in out.glob("*.idx"))
    assert b"cat/caf\xe9.jpg" in found
    assert main(["convert", "check", f"--data_dir={out}", "--full", "--workers=1"]) == 0


BAD = {
    "cat_0": b"",
    "cat_1": b"no image at all",
    "cat_2": png_header(60_000, 60_000),
    "cat_3": encoded(photograph(90, 90))[:-40],
}


def test_more_bad_images_than_allowed(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 1 with all that is good kept; allowing more of them finishes what is there."""
    for name, data in BAD.items():
        (broken / "val" / "cat" / f"{name}.JPEG").write_bytes(data)
    out = tmp_path / "out"
    assert convert(broken, out) == 1
    said = sentence(capsys)
    assert "4 of 30 images" in said
    assert "--max_bad 0.001" in said
    assert str(out / "quarantine.jsonl") in said
    found = quarantine(out)
    assert set(found) == {f"cat/{name}" for name in BAD}
    assert "empty" in found["cat/cat_0"]
    assert "known format" in found["cat/cat_1"]
    assert "limit" in found["cat/cat_2"]
    assert "cut short" in found["cat/cat_3"]
    assert not (out / "manifest.json").exists()
    shards = times(out)
    kept = {name: when for name, when in shards.items() if name.endswith((".tar", ".idx"))}
    assert len(kept) == 6

    assert convert(broken, out, "--max_bad=0.13") == 1
    assert "more than --max_bad 0.13" in sentence(capsys)
    assert convert(broken, out, "--max_bad=0.14") == 0
    assert {name: when for name, when in times(out).items() if name in kept} == kept
    assert quarantine(out) == found
    assert json.loads((out / "manifest.json").read_text())["splits"]["val"]["quarantined"] == 4
    members = [name for path in out.glob("*.tar") for name in tarfile.open(path).getnames() if name.endswith(".jpg")]
    assert len(members) == 26
    assert not {f"cat/{name}.jpg" for name in BAD} & set(members)

    # The same at another start, to the byte: no address, no time.
    again = tmp_path / "again"
    assert convert(broken, again, "--max_bad=1") == 0
    assert digests(again) == digests(out)


def test_too_many_bad_images_of_one_split_leave_the_other_undisturbed(
    broken: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(broken / "val", broken / "train")
    (broken / "train" / "cat" / "cat_0.JPEG").write_bytes(b"")
    out = tmp_path / "out"
    for flags in ([], ["--part=1/1"]):
        assert convert(broken, out, *flags) == (0 if flags else 1)
        if not flags:
            said = sentence(capsys)
            assert "1 of 30 images of train cannot be used" in said
        assert list(json.loads((out / "manifest.json").read_text())["splits"]) == ["val"]
    assert main(["convert", "merge", f"--out={out}"]) == 1
    assert main(["convert", "merge", f"--out={out}", "--max_bad=0.1"]) == 0
    assert list(json.loads((out / "manifest.json").read_text())["splits"]) == ["train", "val"]


def test_a_file_too_large_for_an_image_is_not_read(broken: Path, tmp_path: Path) -> None:
    os.truncate(broken / "val" / "cat" / "cat_0.JPEG", (1 << 29) + 1)  # sparse
    assert convert(broken, tmp_path / "out", "--max_bad=1") == 0
    assert quarantine(tmp_path / "out") == {"cat/cat_0": "it has 536,870,913 bytes, more than the limit of 536,870,912"}
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "val/cat/cat_0.JPEG"


def test_a_quarantine_list_of_somebody_elses(images: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "quarantine.jsonl").write_text("mine\n")
    assert convert(images, tmp_path) == 1
    assert f"{tmp_path / 'quarantine.jsonl'} has a line that is no image left out" in sentence(capsys)
    assert (tmp_path / "quarantine.jsonl").read_text() == "mine\n"


def test_nothing_but_bad_images(broken: Path, tmp_path: Path, capsys: Capture) -> None:
    for path in broken.rglob("*.JPEG"):
        path.write_bytes(b"gone")
    assert convert(broken, tmp_path / "out", "--max_bad=1") == 1
    assert "none of 30 images" in sentence(capsys)


def task_of(source: Path, out: Path) -> ShardTask:
    scan = find_source(source, "val")
    members = [scan.member(place) for place in range(len(scan))]
    out.mkdir()
    policy = ImagePolicy.parse("original")
    return ShardTask(
        number=0,
        name="val-000000.tar",
        root=source,
        out=out,
        records=out,
        policy=policy,
        settings="",
        members=members,
    )


@pytest.mark.parametrize(
    "change",
    [lambda d: d[:-1], lambda d: d + b"x", lambda _: b"", lambda d: d[::-1]],
    ids=["cut", "grown", "empty", "other bytes"],
)
def test_an_image_that_changed_since_the_scan(change: object, broken: Path, tmp_path: Path) -> None:
    assert callable(change)
    task = task_of(broken, tmp_path / "out")
    path = Path(task.members[-1].path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match="changed while it was converted") as raised:
        write_shard(task, lambda *_: None)
    assert str(path) in str(raised.value)
    assert names(task.out) == set()


def test_an_image_that_vanished_since_the_scan(broken: Path, tmp_path: Path) -> None:
    task = task_of(broken, tmp_path / "out")
    path = Path(task.members[-1].path)
    path.unlink()
    with pytest.raises(FileNotFoundError) as raised:
        write_shard(task, lambda *_: None)
    assert raised.value.filename == str(path)
    assert names(task.out) == set()


def test_a_source_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, images: Path) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", fail)
    path = next(images.rglob("*.JPEG"))
    with pytest.raises(OSError, match="Input/output error") as raised:
        read_bytes(Member(0, "key", str(path), 0, 10, 0, 0))
    assert raised.value.filename == str(path)


def test_threads_read_their_own_files(tmp_path: Path) -> None:
    """More files than are kept open, by several threads: none reads what another has closed."""
    members = []
    for place in range(400):
        path = tmp_path / f"{place}.JPEG"
        path.write_bytes(b"%6d" % place)
        members.append(Member(place, f"{place}", str(path), 0, 6, 0, path.stat().st_mtime_ns))
    failed: list[BaseException | int] = []

    def read(step: int) -> None:
        try:
            failed.extend(m.place for m in members[::step] * 5 if read_bytes(m) != b"%6d" % m.place)
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(step,)) for step in (1, -1, 3, -3, 7, -7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


@pytest.mark.parametrize("what", ["cut", "removed"])
def test_a_source_edited_while_it_is_converted(what: str, broken: Path, tmp_path: Path) -> None:
    """By the command as people start it: the shards before the edit stay, and it goes on when the source is back."""
    out = tmp_path / "out"
    scan = find_source(broken, "val")
    command = [sys.executable, "-m", "twistnet", "convert", f"--data_dir={broken}", f"--out={out}", "--workers=1"]
    command += ["--min_shards=15"]
    last = int(Order(num_samples=len(scan), global_batch=len(scan)).batch(0, 0)[0][-1])
    late = Path(scan.member(last).path)
    data = late.read_bytes()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)
    records = out / ".val.unfinished"
    while not (records / "plan.json").exists():
        assert process.poll() is None
        time.sleep(0.002)
    # The estimate is over and the writing process still starts.
    if what == "cut":
        os.truncate(late, len(data) - 1)
    else:
        late.unlink()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert str(late) in said
    assert ("changed while it was converted" if what == "cut" else "does not exist") in said
    kept = sorted(out.glob("*.tar"))
    assert len(kept) == 14
    assert not (out / "manifest.json").exists()
    late.write_bytes(data)
    assert convert(broken, out, "--min_shards=15") == 0
    assert len(list(out.glob("*.tar"))) == 15
