"""Real images in small trees, shared by the tests."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

# Tests share the cores with the processes that some of them start: more threads would only wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a card are skipped, visibly, where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


PHOTOGRAPHS = {"astronaut": skimage.data.astronaut, "cat": skimage.data.chelsea, "coffee": skimage.data.coffee}


def write_tree(root: Path, per_class: dict[str, int], seed: int = 0) -> Path:
    """A tree of JPEG crops of photographs, one class a photograph; sizes vary from file to file."""
    rng = np.random.default_rng(seed)
    for split, count in per_class.items():
        for name, photograph in PHOTOGRAPHS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            pixels = photograph()
            for index in range(count):
                height, width = rng.integers(60, 200, size=2)
                top = rng.integers(0, pixels.shape[0] - height)
                left = rng.integers(0, pixels.shape[1] - width)
                crop = Image.fromarray(pixels[top : top + height, left : left + width])
                crop.save(folder / f"{name}_{index}.JPEG", quality=90)
    return root


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes: 17 training and 7 validation images each, so that no usual batch divides 51 or 21."""
    return write_tree(tmp_path_factory.mktemp("data") / "tree", {"train": 17, "val": 7})
