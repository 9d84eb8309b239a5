"""`twistnet convert dtd`: torchvision's downloader with the network replaced, and with one that is not there."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import free_port
from layout_sets import SETS, write
from torchvision.datasets import DTD, Flowers102, utils

from loaders import open_store
from loaders.layouts import LAYOUTS
from twistnet.__main__ import main

Capture = pytest.CaptureFixture[str]


def fetch(out: Path, *flags: str) -> int:
    return main(["convert", "dtd", f"--out={out}", *flags])


def archive(files: Mapping[str, bytes], top: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def served() -> dict[str, bytes]:
    """The small sets as the archives that are published."""
    flowers = SETS["flowers"]()
    return {
        "dtd-r1.0.1.tar.gz": archive(SETS["dtd"](), "dtd/"),
        "102flowers.tgz": archive({name: data for name, data in flowers.items() if name.startswith("jpg/")}),
        "imagelabels.mat": flowers["imagelabels.mat"],
        "setid.mat": flowers["setid.mat"],
    }


@pytest.fixture
def fetched(served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torchvision has fetched; its checks and its extraction are its own."""
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in served.items()}
    numbers = {"dtd": (2, 24, (12, 12), {}), "flowers": (3, 12, (4, 4), {"train": 3, "val": 3, "test": 6})}
    for name, (classes, images, per_class, splits) in numbers.items():
        facts = LAYOUTS[name].facts
        assert facts
        changed = dataclasses.replace(
            facts,
            classes=classes,
            images=images,
            per_class=per_class,
            splits=splits,
            md5={file: md5[file] for file in facts.md5},
        )
        monkeypatch.setitem(LAYOUTS, name, dataclasses.replace(LAYOUTS[name], facts=changed))  # type: ignore[arg-type]
    monkeypatch.setattr(DTD, "_MD5", md5["dtd-r1.0.1.tar.gz"])
    files = {key: (file, md5[file]) for key, (file, _) in Flowers102._file_dict.items()}
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    urls: list[str] = []

    def retrieve(url: str, filename: str) -> None:
        urls.append(url)
        Path(filename).write_bytes(served[url.rpartition("/")[2]])

    monkeypatch.setattr(utils, "_urlretrieve", retrieve)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    return urls


@pytest.mark.parametrize(("dataset", "folder"), [("dtd", "dtd"), ("flowers", "flowers-102")])
@pytest.mark.parametrize("named", [True, False])
def test_what_is_missing_is_fetched_once(
    tmp_path: Path, fetched: list[str], capsys: Capture, dataset: str, folder: str, named: bool
) -> None:
    out = tmp_path / "data" / (folder if named else "mine")
    flags = [f"--dataset={dataset}", "--download"]
    assert fetch(out, *flags) == 0
    printed = capsys.readouterr().out
    assert f"{LAYOUTS[dataset].title}'s number" in printed
    assert "MD5 as published" in printed
    assert len(fetched) == {"dtd": 1, "flowers": 3}[dataset]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [out.name], "nothing beside the folder named"
    assert len(open_store(out, "train1")) > 0
    assert main(["convert", "count", f"--data_dir={out}"]) == 0
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    for again in (flags, flags[:1]):
        assert fetch(out, *again) == 0
        assert f"{out} holds {LAYOUTS[dataset].title} already, nothing is fetched." in capsys.readouterr().out
    assert len(fetched) == {"dtd": 1, "flowers": 3}[dataset]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == made


def test_an_archive_put_there_by_hand_is_extracted(
    tmp_path: Path, served: dict[str, bytes], fetched: list[str], capsys: Capture
) -> None:
    out = tmp_path / "dtd"
    assert fetch(out) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"error: {out} holds no DTD: add --download, or put dtd-r1.0.1.tar.gz from https://")
    assert message.endswith(f" into {out} by hand and start this with --download.")
    out.mkdir()
    (out / "dtd-r1.0.1.tar.gz").write_bytes(served["dtd-r1.0.1.tar.gz"])
    assert fetch(out, "--download") == 0
    assert fetched == []
    assert len(open_store(out, "test10")) == 8


def test_a_torn_archive_is_fetched_again_and_a_wrong_one_refused(
    tmp_path: Path, served: dict[str, bytes], fetched: list[str], capsys: Capture
) -> None:
    out = tmp_path / "dtd"
    out.mkdir()
    (out / "dtd-r1.0.1.tar.gz").write_bytes(served["dtd-r1.0.1.tar.gz"][:-9])
    assert fetch(out, "--download") == 0
    assert len(fetched) == 1
    shutil.rmtree(out)
    served["dtd-r1.0.1.tar.gz"] = b"<html>moved</html>"
    capsys.readouterr()
    assert fetch(out, "--download") == 1
    assert "DTD cannot be downloaded (File not found or corrupted.): put dtd-r1.0.1" in capsys.readouterr().err


def test_what_is_not_whole_is_told(tmp_path: Path, fetched: list[str], capsys: Capture) -> None:
    out = tmp_path / "dtd"
    assert fetch(out, "--download") == 0
    shutil.rmtree(out / "dtd" / "labels")
    capsys.readouterr()
    assert fetch(out, "--download") == 1
    assert f"{out / 'dtd'} is there and is not whole: remove it and start this again." in capsys.readouterr().err
    shutil.rmtree(out / "dtd")
    assert fetch(out, "--download") == 0
    assert len(fetched) == 1, "the archive is still there"


def test_a_part_of_the_set_fails(tmp_path: Path, fetched: list[str], capsys: Capture) -> None:
    out = tmp_path / "dtd"
    assert fetch(out, "--download") == 0
    for path in (out / "dtd" / "labels").glob("*3.txt"):
        path.unlink()
    capsys.readouterr()
    assert fetch(out) == 1
    printed = capsys.readouterr().out
    assert "9 folds instead of 10" in printed
    assert f"Remove {out / 'dtd'} and start this again with --download." in printed
    assert len(fetched) == 1


@pytest.mark.parametrize("dataset", ["dtd", "flowers"])
def test_no_network_says_where_to_get_it_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, dataset: str
) -> None:
    """torchvision's own downloader, with a proxy that nobody listens at."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(urllib.request, "_opener", None)
    assert fetch(tmp_path / "set", f"--dataset={dataset}", "--download") == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    facts, base = LAYOUTS[dataset].facts, tmp_path / "set" / {"dtd": "dtd", "flowers": "flowers-102"}[dataset]
    assert facts
    assert message == (
        f"error: {LAYOUTS[dataset].title} cannot be downloaded ([Errno 111] Connection refused): put "
        f"{', '.join(facts.md5)} from {facts.home} into {base} by hand and start this with --download."
    )
    assert main(["convert", "dtd", f"--out={tmp_path}", "--dataset=cub"]) == 2


def test_flowers_without_scipy_are_not_fetched(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert fetch(tmp_path / "flowers-102", "--dataset=flowers", "--download") == 1
    assert "reading Flowers-102 needs scipy: pip install 'twistnet[convert]'." in capsys.readouterr().err
    assert fetched == []


def test_a_set_that_was_there_before_is_checked(tmp_path: Path, capsys: Capture) -> None:
    assert fetch(write(tmp_path / "set", "dtd")) == 1
    printed = capsys.readouterr().out
    assert "holds DTD already" in printed
    assert "24 images instead of 5,640" in printed
