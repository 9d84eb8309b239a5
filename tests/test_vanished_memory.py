"""Files that are cut while they are mapped: the system answers by SIGBUS, which would end the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converted_sets import copy_of
from test_bad_samples import epoch_of, opened
from test_decoders import needed

from loaders import open_store
from loaders.choosing import make_decoder
from loaders.crops import CropPolicy

pytest_plugins = ("converted_sets",)

CUT = 20_000  # bytes that are left of a shard
KILLED = """
import os, signal, time
from loaders.native.decoder import NativeDecoder

decoder = NativeDecoder("bilinear", 2)
os.kill(os.getpid(), signal.SIGBUS)
time.sleep(5)
"""
BEYOND = """
import os, sys
import numpy as np
from loaders.native.decoder import NativeDecoder

{before}
with open(sys.argv[1], "wb") as file:
    file.write(bytes(1 << 20))
mapped = np.memmap(sys.argv[1], mode="r")
decoder = NativeDecoder("bilinear", 2)
os.truncate(sys.argv[1], 0)
print(decoder.sizes([mapped[4096:8192].data])[1], flush=True)
print(int(mapped[4096]))
"""


@pytest.mark.parametrize(
    ("decoder", "verify"), [("native", False), ("native", True), ("ffcv", False), ("dali", False), ("reference", False)]
)
@pytest.mark.parametrize("cut", ["in an image", "before an image", "in its first bytes"])
def test_a_cut_that_nobody_has_noticed_yet_fails_its_samples_only(
    shards_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, decoder: str, verify: bool
) -> None:
    """Wherever it is: of the page that is cut the system leaves zeros, and nothing of the pages behind it."""
    needed(decoder)
    monkeypatch.setattr("loaders.mapped.MappedFile.available", lambda file: file.size)
    copy = copy_of(shards_set, tmp_path / "copy")
    shard = copy / "train-000001.tar"
    store = open_store(copy, "train")
    starts = [store.offset(sample) for sample in range(51) if store.key(sample).startswith(shard.name)]  # type: ignore[attr-defined]
    size = {"in an image": CUT, "before an image": -10, "in its first bytes": 30}[cut]
    if cut != "in an image":
        size += next(start for start in starts if 500 < start % 4096 < 3500)
    options = {"decoder": decoder, "crops": CropPolicy(interpolation="area" if decoder == "ffcv" else "bilinear")}
    whole = epoch_of(opened(copy, **options))
    loader = opened(copy, max_bad=0.5, verify=verify, **options)
    next(loader.epoch(0))  # maps the shards, and leaves batches under way
    os.truncate(shard, size)
    found = epoch_of(loader)
    assert loader.bad
    assert all("train-000001.tar" in key for key in loader.bad)
    reasons = list(loader.bad.values())
    assert sum("was cut meanwhile" in reason for reason in reasons) >= len(reasons) - 2, (
        "but for those in the last page"
    )
    same = 0
    for one, other in zip(found, whole, strict=True):
        for place in np.flatnonzero(one.valid.numpy()):
            assert one.images[place].equal(other.images[place])
            same += 1
    assert same == 51 - len(loader.bad)


@pytest.mark.parametrize("name", ["native", "ffcv", "dali", "dali+native", "device"])
@pytest.mark.parametrize("raw", [False, True])
def test_every_image_after_the_cut_is_gone_and_none_before(
    tmp_path: Path, shards_set: Path, raw: bool, name: str
) -> None:
    """Whether its header is lost, or only what lies in later pages."""
    jpeg = (shards_set / "train-000000.tar").read_bytes()
    start = jpeg.index(b"\xff\xd8\xff")
    page = os.sysconf("SC_PAGESIZE")
    image = np.full((200, 200, 3), 7, dtype=np.uint8).tobytes() if raw else jpeg[start : start + 30_000]
    file = tmp_path / "images"
    stride = -(-len(image) // page) * page
    file.write_bytes(b"".join(image.ljust(stride, b"\0") for _ in range(4)))
    mapped = np.memmap(file, mode="r")
    views = [mapped[place * stride : place * stride + len(image)] for place in range(4)]
    data = [view.reshape(200, 200, 3) if raw else view.data for view in views]
    needed(name)
    decoder = make_decoder(name, "area" if name == "ffcv" else "bilinear", 3)
    sizes, _ = decoder.sizes(data)
    os.truncate(file, stride + page)
    boxes = np.concatenate([np.zeros((4, 2), dtype=np.int64), sizes], axis=1)
    out = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    failures = decoder.decode(data, boxes, np.zeros(4, dtype=bool), out)
    assert set(failures) - {0} == {1, 2, 3}
    assert all("was cut meanwhile" in failures[place] for place in (1, 2, 3))
    if raw:
        assert 0 not in failures
        assert (out[0] == 7).all()
        assert not decoder.sizes(data)[1], "the sizes of raw pixels are known"
    else:
        assert set(decoder.sizes(data)[1]) == {2, 3}


def test_a_signal_that_is_no_access_is_not_taken_for_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    assert subprocess.run([sys.executable, script], timeout=120).returncode == -signal.SIGBUS


@pytest.mark.parametrize("before", ["", "import faulthandler; faulthandler.enable()"])
def test_a_bus_error_elsewhere_ends_the_process_as_ever(tmp_path: Path, before: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(BEYOND.format(before=before))
    done = subprocess.run([sys.executable, script, tmp_path / "file"], capture_output=True, text=True, timeout=120)
    assert "was cut meanwhile" in done.stdout
    assert done.returncode == -signal.SIGBUS
    assert ("Bus error" in done.stderr) == bool(before)
