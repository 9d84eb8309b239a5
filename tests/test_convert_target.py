"""A target that cannot be written, is full or holds files of others: one sentence, and nothing lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conversions import Capture, convert, digests, names, sentence, times
from PIL import Image
from test_convert_images import encoded

from twistnet.__main__ import main

pytest_plugins = ("conversions",)


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc"])
def test_a_target_that_cannot_be_written(place: str, images: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    out = {"a file": file, "below a file": file / "sub" / "set", "/proc": Path("/proc/set")}[place]
    assert convert(images, out) == 1
    said = sentence(capsys)
    assert str(out) in said
    assert "choose another --out" in said
    assert file.read_bytes() == b"mine"


def test_a_full_disk(tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "source"
    for place in range(21):
        path = source / "val" / "a" / f"{place}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.effect_noise((360, 360), 80).convert("RGB"), quality=95))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        out = disk / "set"
        # What does not fit is refused before anything is written.
        needed = sum(path.stat().st_size for path in source.rglob("*.JPEG"))
        assert 2_000_000 < needed < 2_900_000
        filler = disk / "filler"
        filler.write_bytes(bytes(1_500_000))
        assert convert(source, out) == 1
        said = sentence(capsys)
        assert "GB free" in said
        assert names(disk) == {"filler"}

        # And what ends a disk that had room.
        filler.unlink()
        assert convert(source, out, "--part=1/3") == 0
        filler.write_bytes(bytes(disk_free(disk) - 900_000))
        patched = pytest.MonkeyPatch()
        patched.setattr("convert.converting.refuse_a_small_disk", lambda *_: None)
        kept = {name: when for name, when in times(out).items() if name.endswith((".tar", ".idx"))}
        assert convert(source, out) == 1
        patched.undo()
        said = sentence(capsys)
        assert f"{out} cannot be written (No space left on device)" in said
        assert "start again" in said
        assert not [name for name in names(out) if name.endswith(".tmp")]
        assert times(out).items() >= kept.items()

        filler.unlink()
        assert convert(source, out) == 0
        assert times(out).items() >= kept.items()
        assert convert(source, tmp_path / "set") == 0
        assert digests(out) == digests(tmp_path / "set")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def disk_free(path: Path) -> int:
    return shutil.disk_usage(path).free


def limited(limit_kb: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command in a process whose files may not become larger, which fails as a full disk does."""
    command = [sys.executable, "-m", "twistnet", "convert", *flags]
    script = f'ulimit -f {limit_kb} && exec "$@"'
    return subprocess.run(["bash", "-c", script, "-", *command], capture_output=True, text=True, timeout=120)


def test_files_that_may_not_grow(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = [f"--data_dir={images}", f"--out={out}", "--min_shards=3", "--workers=2"]
    largest = max(path.stat().st_size for path in whole.glob("*.tar"))
    failed = limited(largest // 1024 - 1, *flags)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert f"{out} cannot be written (File too large)" in failed.stderr
    assert not list(out.rglob("*.tmp"))
    assert not (out / "manifest.json").exists()
    assert digests(out).items() <= digests(whole).items()
    assert convert(images, out) == 0
    assert digests(out) == digests(whole)


def test_ffcvs_writer_fails(images: Path, whole: Path, tmp_path: Path) -> None:
    """FFCV's own writer would wait for ever."""
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    out = tmp_path / "out"
    failed = limited(2048, f"--data_dir={images}", f"--out={out}", "--formats=shards,beton", "--min_shards=3")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "FFCV's writer failed on val" in failed.stderr
    assert "File too large" in failed.stderr
    assert {name: digest for name, digest in digests(out).items() if name.endswith((".tar", ".idx"))} == {
        name: digest for name, digest in digests(whole).items() if name.endswith((".tar", ".idx"))
    }
    assert not [name for name in names(out) if "beton" in name or name == "manifest.json"]


def test_a_disk_too_small_for_the_beton_of_all_parts(
    images: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known exactly once the shards are there, and said before FFCV writes."""
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    out = tmp_path / "out"
    assert convert(images, out, "--part=1/1", "--formats=shards,beton", "--beton=raw") == 0
    pixels = sum(image.size[0] * image.size[1] for image in map(Image.open, images.rglob("*.JPEG")))
    with monkeypatch.context() as patch:
        patch.setattr("convert.estimate.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * pixels - 1))
        capsys.readouterr()
        assert main(["convert", "merge", f"--out={out}"]) == 1
    assert "free some and start again, which goes on from the finished shards" in sentence(capsys)
    assert not (out / "val.beton").exists()
    assert main(["convert", "merge", f"--out={out}"]) == 0
    assert (out / "val.beton").stat().st_size > 3 * pixels


def test_files_of_others_are_not_overwritten(images: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("val-000001.tar", "val-000001.idx", "val.beton"):
        (out / name).write_bytes(b"mine")
        assert convert(images, out) == 1
        assert str(out / name) in sentence(capsys)
        assert names(out) == {name}
        assert (out / name).read_bytes() == b"mine"
        (out / name).unlink()
    # Another tar's name is not one of ours.
    (out / "val-2020.tar").write_bytes(b"mine")
    assert convert(images, out) == 0
    assert (out / "val-2020.tar").read_bytes() == b"mine"


def test_a_manifest_that_is_torn(images: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1, "cl')
    assert convert(images, tmp_path) == 1
    assert "is no manifest" in sentence(capsys)
