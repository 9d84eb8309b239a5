"""The guide's second step, the archives to a tree, and its verification by counting."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import ilsvrc
import pytest
from conftest import write_tree
from conversions import Capture, sentence, times, webdataset_tar

from convert.scan import Member
from convert.shard import read_bytes
from loaders import InputError, open_store
from loaders.files import take_lock
from twistnet.__main__ import main

DATA = ilsvrc.make_ilsvrc(train_per_class=9, num_val=20)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name), DATA) for name, write in ilsvrc.LAYOUTS.items()}


def prepare(source: Path, out: Path, *flags: str) -> int:
    return main(["convert", "prepare", f"--data_dir={source}", f"--out={out}", *flags])


def contents(out: Path, split: str) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in (out / split).rglob("*.JPEG")}


@pytest.mark.parametrize("layout", sorted(ilsvrc.LAYOUTS))
def test_prepare_gives_the_guides_tree(layout: str, sources: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "tree"
    assert prepare(sources[layout], out) == 0
    for split in ("train", "val"):
        assert contents(out, split) == DATA.images(split)
    torn = next((out / "val").rglob("*.JPEG"))
    torn.unlink()
    torn.with_name(f".{torn.name}.part").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.JPEG")}
    assert prepare(sources[layout], out) == 0
    assert torn.exists()
    assert not list(out.rglob(".*"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_count_says_what_is_there(
    sources: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count: Callable[..., int] = lambda *flags: main(["convert", "count", f"--data_dir={sources['archives']}", *flags])  # noqa: E731
    assert count() == 1
    printed = capsys.readouterr().out
    assert "train: 45 images of 5 classes, 9 to 9 a class, not ImageNet's" in printed
    assert "val: 20 images of 5 classes, 4 to 4 a class, not ImageNet's" in printed
    monkeypatch.setattr("convert.counting.EXPECTED", {"train": 45, "val": 20})
    monkeypatch.setattr("convert.counting.NUM_CLASSES", 5)
    assert count() == 1, "not the numbers of a class"
    monkeypatch.setattr("convert.counting.PER_CLASS", {"train": (9, 9), "val": (4, 4)})
    capsys.readouterr()
    assert count() == 0
    assert "val: 20 images of 5 classes, 4 to 4 a class, ImageNet's number" in capsys.readouterr().out
    assert count("--md5") == 1
    said = capsys.readouterr().err
    assert said.count(" is published") == 3
    assert "download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz again" in said
    known = {
        name: hashlib.md5((sources["archives"] / name).read_bytes()).hexdigest()
        for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
    }
    monkeypatch.setattr("convert.counting.MD5", known)
    assert count("--md5") == 0
    assert "ILSVRC2012_img_val.tar: MD5 as published" in capsys.readouterr().out


def test_count_of_a_set_that_is_not_imagenet(tmp_path: Path, capsys: Capture) -> None:
    root = write_tree(tmp_path / "tree", {"train": 3, "val": 2})
    assert main(["convert", "count", f"--data_dir={root}"]) == 0
    assert "val: 6 images of 3 classes, 2 to 2 a class\n" in capsys.readouterr().out


def test_prepare_makes_class_folders_of_any_source(tmp_path: Path) -> None:
    """Of keys without a folder, with another one, and with folders within the class."""
    tar = webdataset_tar(tmp_path / "source" / "train-0.tar", "x/a.jpg", "x/a.cls")
    nested = write_tree(tmp_path / "tree", {"train": 2})
    (nested / "train" / "cat" / "sub").mkdir()
    (nested / "train" / "cat" / "cat_0.JPEG").rename(nested / "train" / "cat" / "sub" / "cat_0.JPEG")
    for source, expected in (
        (tar.parent, {"train/0/good.JPEG", "train/0/x/a.JPEG"}),
        (nested, {str(path.relative_to(nested)) for path in nested.rglob("*.JPEG")}),
    ):
        out = tmp_path / f"{source.name}-prepared"
        assert prepare(source, out) == 0
        assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected


def test_two_images_that_would_be_one_file(tmp_path: Path, capsys: Capture) -> None:
    tar = webdataset_tar(tmp_path / "source" / "train-0.tar", "0/good.jpg", "0/good.cls")
    assert prepare(tar.parent, tmp_path / "out") == 1
    said = sentence(capsys)
    assert f"has two images that would be {tmp_path / 'out' / 'train' / '0' / 'good.JPEG'}: rename one" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def cut_off(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose preparation ended after twelve images of train, one of them torn as by a loss of power."""
    done: list[Member] = []

    def read(member: Member) -> bytes:
        if len(done) == 12:
            raise OSError(5, "Input/output error", member.path)
        done.append(member)
        return read_bytes(member)

    out = tmp_path / "tree"
    with monkeypatch.context() as patch:
        patch.setattr("convert.preparing.read_bytes", read)
        assert prepare(sources["archives"], out, "--workers=1") == 1
    found = sorted(out.rglob("*.JPEG"))
    assert len(found) == 12
    os.truncate(found[0], found[0].stat().st_size // 2)
    return out


def test_prepare_goes_on(sources: dict[str, Path], cut_off: Path) -> None:
    before = times(cut_off)
    whole = sorted(cut_off.rglob("*.JPEG"))[1:]
    assert prepare(sources["archives"], cut_off) == 0
    for split in ("train", "val"):
        assert contents(cut_off, split) == DATA.images(split)
    assert {str(path): path.stat().st_mtime_ns for path in whole} == {str(path): before[str(path)] for path in whole}
    assert not list(cut_off.rglob(".*"))


def test_a_tree_that_is_not_whole_is_no_data_set(cut_off: Path, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(InputError, match="train is not whole: start twistnet convert prepare again"):
        open_store(cut_off, "train")
    capsys.readouterr()
    assert main(["convert", f"--data_dir={cut_off}", f"--out={tmp_path / 'set'}"]) == 1
    assert "is not whole" in sentence(capsys)


def test_prepare_does_not_go_on_with_another_source(
    sources: dict[str, Path], cut_off: Path, tmp_path: Path, capsys: Capture
) -> None:
    other = Path(shutil.copytree(sources["tree"], tmp_path / "other"))
    sorted((other / "train").rglob("*.JPEG"))[-1].unlink()
    torn = sorted(cut_off.rglob("*.JPEG"))[0]
    before = times(cut_off)
    capsys.readouterr()
    assert prepare(other, cut_off) == 1
    assert f"1 files are in the way with another size than in {other}, the first {torn}" in sentence(capsys)
    assert times(cut_off) == before
    torn.unlink()
    assert prepare(other, cut_off) == 1
    assert "holds the beginning of another data set" in sentence(capsys)


def test_prepare_leaves_other_files_alone(sources: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    """A tree of smaller images, say, under the same names."""
    out = Path(shutil.copytree(sources["tree"], tmp_path / "tree"))
    for path in sorted((out / "train").rglob("*.JPEG"))[::2]:
        path.write_bytes(b"smaller")
    before = times(out)
    assert prepare(sources["archives"], out) == 1
    assert "23 files are in the way with another size" in sentence(capsys)
    assert times(out) == before


def test_prepare_into_the_folder_of_the_archives(sources: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    """As the guide does it, and once more with both there."""
    folder = Path(shutil.copytree(sources["archives"], tmp_path / "imagenet"))
    for written in (45, 0):
        capsys.readouterr()
        assert prepare(folder, folder) == 0
        assert f"45 images in {folder / 'train'}, {written} of them written now" in capsys.readouterr().out
    for split in ("train", "val"):
        assert contents(folder, split) == DATA.images(split)
    assert main(["convert", "count", f"--data_dir={folder}"]) == 1
    assert "choose with --source tree or archives" in sentence(capsys)


def test_prepare_does_not_mix_data_sets(sources: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    out = Path(shutil.copytree(sources["tree"], tmp_path / "tree"))
    before = times(out)
    assert prepare(write_tree(tmp_path / "other", {"train": 2}), out) == 1
    assert f"{out / 'train'} holds n01440764, a class of another data set, and 4 more" in sentence(capsys)
    assert times(out) == before


def test_prepare_onto_a_tree_itself(sources: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    out = Path(shutil.copytree(sources["tree"], tmp_path / "tree"))
    assert prepare(out, out) == 1
    assert f"{out} is such a tree already" in sentence(capsys)


def test_what_a_tree_cannot_hold(tmp_path: Path, capsys: Capture) -> None:
    """DTD's folds, and labels of classes that have no images."""
    dtd = tmp_path / "dtd"
    (dtd / "labels").mkdir(parents=True)
    (dtd / "images").symlink_to(write_tree(tmp_path / "source", {"train": 3}) / "train")
    for place, split in enumerate(("train1", "val1", "test1")):
        (dtd / "labels" / f"{split}.txt").write_text(f"cat/cat_{place}.JPEG\n")
    assert prepare(dtd, tmp_path / "out") == 1
    assert "has folds, which a tree would lose" in sentence(capsys)
    tar = webdataset_tar(tmp_path / "tars" / "train-0.tar", "x.jpg", "x.cls")
    with tarfile.open(tar, "a") as file:
        info = tarfile.TarInfo("y.cls")
        info.size = 2
        file.addfile(info, io.BytesIO(b"12"))
        info = tarfile.TarInfo("y.jpg")
        file.addfile(info)
    assert prepare(tar.parent, tmp_path / "out") == 1
    assert "has no images of class 01 and 10 others" in sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_prepare_beside_another_process(sources: dict[str, Path], cut_off: Path, capsys: Capture) -> None:
    lock = take_lock(cut_off / "train" / ".preparing")
    capsys.readouterr()
    assert prepare(sources["archives"], cut_off) == 1
    assert f"another process is preparing {cut_off / 'train'}: wait for it" in sentence(capsys)
    lock.close()
    assert prepare(sources["archives"], cut_off) == 0


def test_prepare_asks_for_what_is_missing_alone(
    sources: dict[str, Path], cut_off: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(len(data) for data in DATA.images("train").values())
    monkeypatch.setattr("convert.estimate.shutil.disk_usage", lambda _: SimpleNamespace(free=total - 1))
    capsys.readouterr()
    assert prepare(sources["archives"], tmp_path / "new") == 1
    assert "free some, or choose another --out" in sentence(capsys)
    assert not (tmp_path / "new").exists()
    assert prepare(sources["archives"], cut_off) == 0
