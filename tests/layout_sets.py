"""Small data sets in each layout with folds, of real photographs' crops, written as their archives extract."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import scipy.io
import skimage.data
from ilsvrc import write_files
from PIL import Image

Files = dict[str, bytes]


@functools.cache
def crop(number: int, kind: str = "JPEG") -> bytes:
    """A crop of a photograph, another for every number."""
    rng = np.random.default_rng(number)
    pixels = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())[number % 3]
    height, width = rng.integers(24, 60, size=2)
    top, left = rng.integers(0, pixels.shape[0] - height), rng.integers(0, pixels.shape[1] - width)
    buffer = io.BytesIO()
    Image.fromarray(pixels[top : top + height, left : left + width]).save(buffer, kind)
    return buffer.getvalue()


def filled(names: list[str]) -> Files:
    return {name: crop(number, "PNG" if name.endswith("png") else "JPEG") for number, name in enumerate(names)}


def mat(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays)
    return buffer.getvalue()


def dtd() -> Files:
    """Two classes of twelve in ten folds, with the stray file and the joint list that DTD has."""
    names = [f"{name}/{name}_{number:04d}.jpg" for name in ("banded", "waffled") for number in range(1, 13)]
    files = filled([f"images/{name}" for name in names])
    for fold in range(1, 11):
        for place, split in enumerate(("train", "val", "test")):
            chosen = [name for number, name in enumerate(names) if (number + number // 3 * fold) % 3 == place]
            files[f"labels/{split}{fold}.txt"] = "".join(f"{name}\n" for name in reversed(chosen)).encode()
    joint = "".join(f"{name} {name.partition('/')[0]} \n" for name in names).encode()
    return {**files, "images/waffled/.directory": b"[Dolphin]\n", "labels/labels_joint_anno.txt": joint}


def fmd() -> Files:
    """Two classes of ten, half close-ups, with masks and Windows' thumbnails."""
    names = [
        f"{name}/{name}_{kind}_{number:03d}_new.jpg"
        for name in ("fabric", "wood")
        for kind in ("moderate", "object")
        for number in range(1, 6)
    ]
    files = filled([f"image/{name}" for name in names])
    masks = {f"mask/{name}": crop(0) for name in names}
    return {**files, **masks, "image/wood/Thumbs.db": b"\xd0\xcf\x11\xe0"}


def kth() -> Files:
    """Two classes of four physical samples with three images each."""
    names = [
        f"{name}/sample_{sample}/{number}{sample}-scale_2_im_1_col.png"
        for name in ("cork", "wool")
        for sample in "abcd"
        for number in (10, 9, 8)
    ]
    return {**filled(names), "readme.txt": b"KTH-TIPS2-b"}


def cub() -> Files:
    """Two classes of 30 and 21 images; the ids are not in the order of the names, as some are not in CUB."""
    sizes = {"001.Black_footed_Albatross": 30, "002.Laysan_Albatross": 21}
    names = [f"{name}/{name[4:]}_{number:04d}_{number * 7}.jpg" for name in sizes for number in range(sizes[name])]
    names = names[::2] + names[1::2]
    classes = list(sizes)
    numbered = list(enumerate(names, 1))
    return {
        **filled([f"images/{name}" for name in names]),
        "images.txt": "".join(f"{number} {name}\n" for number, name in numbered).encode(),
        "classes.txt": "".join(f"{number} {name}\n" for number, name in enumerate(classes, 1)).encode(),
        "image_class_labels.txt": "".join(
            f"{number} {classes.index(name.partition('/')[0]) + 1}\n" for number, name in numbered
        ).encode(),
        "train_test_split.txt": "".join(f"{number} {int(number % 3 != 0)}\n" for number, _ in numbered).encode(),
        "attributes/certainties.txt": b"1 not visible\n",
    }


FLOWERS = (3, 1, 2, 2, 1, 3, 1, 2, 3, 3, 1, 2)  # labels of the twelve images


def flowers() -> Files:
    """Three classes of four images, whose labels count from 1 and are in no order."""
    return {
        **filled([f"jpg/image_{number:05d}.jpg" for number in range(1, 13)]),
        "imagelabels.mat": mat(labels=np.array([FLOWERS], dtype=np.uint8)),
        "setid.mat": mat(
            trnid=np.array([[8, 2, 1]], dtype=np.uint16),
            valid=np.array([[3, 5, 6]], dtype=np.uint16),
            tstid=np.array([[12, 4, 7, 9, 10, 11]], dtype=np.uint16),
        ),
    }


def folder() -> Files:
    """Three classes of 5, 7 and 11 images, one of them with a folder below."""
    names = [f"ants/{number}.jpg" for number in range(5)]
    names += [f"bees/{'deep/' if number % 2 else ''}{number}.png" for number in range(7)]
    names += [f"wasps and others/{number:02d}.JPG" for number in range(11)]
    return {**filled(names), "ants/.DS_Store": b"x", "README.md": b"my own"}


SETS: Mapping[str, Callable[[], Files]] = {
    "dtd": dtd,
    "fmd": fmd,
    "kth": kth,
    "cub": cub,
    "flowers": flowers,
    "folder": folder,
}
# Where the archives, or torchvision's downloader, leave them, below the folder that people name.
NESTED = {
    "dtd": ("", "dtd", "dtd/dtd"),
    "fmd": ("", "FMD"),
    "kth": ("", "KTH-TIPS2-b"),
    "cub": ("", "CUB_200_2011"),
    "flowers": ("", "flowers-102"),
    "folder": ("",),
}


def write(root: Path, name: str, nested: str = "") -> Path:
    """One of the sets."""
    root.mkdir(parents=True, exist_ok=True)
    write_files(root / nested, SETS[name]())
    return root
