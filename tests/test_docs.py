"""Every command that the README and the pages of docs/ show runs, in their order, on data that is as said but small."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from documents import PAGES, ROOT
from ilsvrc import make_ilsvrc, write_archives, write_files, write_tree
from PIL import Image
from test_source_forms import tiny
from training import FOLDS

import loaders
from loaders import draws
from twistnet import weights
from twistnet.__main__ import main

# What is smaller here than it says; all else is as shown.
SMALL = {
    "--epochs": "1",
    "--size": "32",
    "--workers": "1",
    "--device": "cpu",
    "--batch_size": "8",
    "--model": "test_resnet",
}
TRAINING = ("pretrain", "finetune", "sweep")
FEWER = {"--folds": "1-2", "--seeds": "42"}  # runs of a sweep
NOT_RUN = {
    "make demo": "takes minutes; its steps are in test_demo.py",
    "make test": "is what runs this",
    "python -c": "timm's scripts are no part of its package",
}
# The numbers published are not those of a few images, and nothing is downloaded here.
EXPECTED = {"convert count": 1, "convert dtd --download": 1}


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGES[page], re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    bare = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines)
    return [" ".join(line.split()) for line in bare if line]


@pytest.fixture(scope="module")
def data(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: downloads, ImageNet as a tree, DTD, images of one's own."""
    root = tmp_path_factory.mktemp("docs")
    images = make_ilsvrc(train_per_class=52)  # more than the guide's batch, which auto begins from
    write_archives(root / "path/to/downloads", images)
    write_tree(root / "path/to/imagenet", images)
    write_files(root / "path/to/tiny-imagenet-200", tiny())
    shutil.copytree(tree / "train", root / "data/dtd/images")
    (root / "data/dtd/labels").mkdir()
    for split, indices in FOLDS.items():
        lines = [f"{name}/{name}_{index}.JPEG" for name in ("astronaut", "cat", "coffee") for index in indices]
        (root / "data/dtd/labels" / f"{split}.txt").write_text("\n".join(lines))
    shutil.copytree(tree / "val", root / "photographs")
    for name in ("resnet18", "twistnet18", "test_resnet"):
        weights.save(timm.create_model(name), root / "weights" / f"{name}_imagenet.pt")
    return root


@pytest.fixture
def workplace(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, with weights where training looks for them."""
    shutil.copytree(data, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWISTNET_BENCH_RESULTS", str(ROOT / "bench" / "results"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    return tmp_path


def smaller(words: list[str]) -> list[str]:
    """The words of a training command with small values instead of those shown, and in place of none."""
    taken = SMALL if "--models" not in words else {**SMALL, **FEWER}
    taken = {name: value for name, value in taken.items() if name != "--model" or "--models" not in words}
    out: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        name, equals, _ = word.partition("=")
        if name in taken and "auto" not in words[place : place + 2]:
            place += 1 if equals else 2
            continue
        taken.pop(name, None)
        out.append(word)
        place += 1
    return [*out, *(f"{name}={value}" for name, value in taken.items())]


def run(line: str, root: Path) -> int:
    """Runs a line as a shell would, with paths below `root`, and gives its exit code."""
    words = [re.sub(r"^/(path|data|local|runs)\b", rf"{root}/\1", word) for word in shlex.split(line)]
    processes = 0
    if words[0] == "torchrun":
        processes, words = 2, words[words.index("-m") + 1 :]
    assert words[0] == "twistnet", line
    name = words[1]
    if name == "launch":
        words.insert(2, "--dry_run")
    if name in TRAINING:
        words = smaller(words)
        for flag in ("--checkpoint_dir", "--run_dir"):
            if flag in words and not {"--resume", "--dry_run"} & set(words):
                shutil.rmtree(words[words.index(flag) + 1], ignore_errors=True)
    elif name == "convert" and "--out" in words and not {"merge", "2/2", "--download"} & set(words):
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
    if not processes:
        return main(words[1:])
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "-m", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}).returncode


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, workplace: Path) -> None:
    for line in commands(page):
        if not line.startswith(tuple(NOT_RUN)):
            expected = next((code for name, code in EXPECTED.items() if f"twistnet {name}" in line), 0)
            assert run(line, workplace) == expected, line


def test_what_is_not_run_is_there() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert len(lines) > 30
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in lines), start


def test_the_examples_of_a_store_and_a_decoder_give_the_batches_of_ours(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = sorted((tree / "train").rglob("*.JPEG"))
    with zipfile.ZipFile("images.zip", "w") as archive:
        for path in images:
            archive.write(path, f"{path.parent.name}/{path.stem}.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/imagenet").symlink_to(tree)
    store, decoder = re.findall(r"```python\n(.*?)```", PAGES["docs/extend.md"], re.DOTALL)
    own: dict[str, Any] = {}
    exec(store, own)
    with (
        loaders.open_loader(own["ZipStore"]("images.zip"), "train", 16, train=True, size=48, seed=3) as theirs,
        loaders.open_loader(tree, "train", 16, train=True, size=48, seed=3) as ours,
    ):
        for one, other in zip(theirs.epoch(1), ours.epoch(1), strict=True):
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.images, other.images)
    exec(decoder, own)
    ids, store = own["batch"].ids.numpy(), loaders.open_store(tree, "train")
    pictures = [Image.open(store.key(int(sample))).convert("RGB") for sample in ids]
    widths, heights = np.array([picture.size for picture in pictures]).T
    boxes = draws.random_resized_crop(draws.crop_uniforms(0, 0, ids), heights, widths)
    mirrored = draws.flips(0, 0, ids, 0.5)
    for shown, picture, (top, left, height, width), flip in zip(
        own["batch"].images.numpy(), pictures, boxes.tolist(), mirrored, strict=True
    ):
        crop = picture.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.NEAREST)
        assert np.array_equal(shown, np.asarray(crop)[:, :: -1 if flip else 1])
