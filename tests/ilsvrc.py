"""A miniature ILSVRC2012, written by tarfile and scipy in each of the layouts that people have, from the same bytes.

Its WordNet ids are real, and as in the real set the ILSVRC ids are not in their order.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import skimage.data
from PIL import Image

from convert.scan import Scan

# The first ILSVRC id is 1. Kit fox, English setter, Siberian husky, tench, Australian terrier.
BY_ID = ("n02119789", "n02100735", "n02110185", "n01440764", "n02096294")
INNER = ("n02083346", "n00001740")  # synsets that are no classes: they have children, and ids after the classes'
DEVKIT = "ILSVRC2012_devkit_t12"


@dataclass(frozen=True)
class Ilsvrc:
    """The images: train is WordNet id -> file name -> JPEG; val is file name -> (WordNet id, JPEG)."""

    train: Mapping[str, Mapping[str, bytes]]
    val: Mapping[str, tuple[str, bytes]]

    def images(self, split: str) -> dict[str, bytes]:
        """Key -> JPEG."""
        if split == "val":
            return {f"{wnid}/{Path(name).stem}": data for name, (wnid, data) in self.val.items()}
        return {f"{wnid}/{Path(name).stem}": data for wnid, files in self.train.items() for name, data in files.items()}


def make_ilsvrc(train_per_class: int = 3, num_val: int = 12, seed: int = 0) -> Ilsvrc:
    """Small JPEGs cut from photographs; every class has a training image, and the classes alternate in val."""
    rng = np.random.default_rng(seed)
    photographs = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())

    def jpeg() -> bytes:
        pixels = photographs[rng.integers(len(photographs))]
        height, width = rng.integers(24, 90, size=2)
        top, left = rng.integers(0, pixels.shape[0] - height), rng.integers(0, pixels.shape[1] - width)
        buffer = io.BytesIO()
        Image.fromarray(pixels[top : top + height, left : left + width]).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    # Numbers as ImageNet has them: not padded, so the order of names is not that of the numbers.
    train = {w: {f"{w}_{(7 * i + 3) ** 2}.JPEG": jpeg() for i in range(train_per_class)} for w in BY_ID}
    val = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": (BY_ID[(3 * i + 1) % len(BY_ID)], jpeg()) for i in range(num_val)}
    return Ilsvrc(train, val)


def meta_mat(by_id: Sequence[str] = BY_ID, inner: Sequence[str] = INNER) -> bytes:
    """meta.mat: a struct array `synsets` with the real one's fields."""
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.zeros((len(by_id) + len(inner), 1), dtype=[(name, object) for name in names])
    for place, wnid in enumerate((*by_id, *inner)):
        children = [] if place < len(by_id) else [1, 2]
        height, images = (0, 1300) if not children else (1, 0)
        words = f"words of {wnid}"
        synsets[place, 0] = (place + 1, wnid, words, words, len(children), np.array(children), height, images)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


def truth_of(data: Ilsvrc) -> str:
    """The ground truth: a line an image, its ILSVRC id."""
    return "".join(f"{BY_ID.index(wnid) + 1}\n" for _, (wnid, _) in sorted(data.val.items()))


def write_devkit(root: Path, meta: bytes, truth: str, *, packed: bool = True) -> Path:
    """The kit as downloaded, or as a folder."""
    content = {"readme.txt": b"a kit", "data/meta.mat": meta}
    content["data/ILSVRC2012_validation_ground_truth.txt"] = truth.encode()
    if packed:
        path = root / f"{DEVKIT}.tar.gz"
        root.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            for name, data in content.items():
                add(tar, f"{DEVKIT}/{name}", data)
        return path
    return write_files(root / DEVKIT, content)


def write_files(root: Path, content: Mapping[str, bytes]) -> Path:
    """Files below a folder: relative name -> content."""
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a regular member."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def tar_of(content: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in content.items():
            add(tar, name, data)
    return buffer.getvalue()


def write_archives(root: Path, data: Ilsvrc) -> Path:
    """The three archives. The inner tars are in the order of the ILSVRC ids, so not of their names."""
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in data.train.items()}
    archives = {
        "ILSVRC2012_img_train.tar": tar_of(inner),
        "ILSVRC2012_img_val.tar": tar_of({name: data.val[name][1] for name in reversed(data.val)}),
    }
    write_devkit(root, meta_mat(), truth_of(data))
    return write_files(root, archives)


def write_train(root: Path, data: Ilsvrc) -> Path:
    """train/<wnid>/ alone."""
    return write_files(
        root, {f"train/{w}/{name}": file for w, files in data.train.items() for name, file in files.items()}
    )


def write_tree(root: Path, data: Ilsvrc) -> Path:
    """train/<wnid>/ and val/<wnid>/."""
    write_files(root, {f"val/{wnid}/{name}": file for name, (wnid, file) in data.val.items()})
    return write_train(root, data)


def write_kaggle(root: Path, data: Ilsvrc) -> Path:
    """ILSVRC/Data/CLS-LOC/ and the solution beside ILSVRC."""
    rows = [f"{Path(name).stem},{wnid} 1 2 30 40 {wnid} 5 6 70 80 \n" for name, (wnid, _) in reversed(data.val.items())]
    (root / "ILSVRC" / "Annotations").mkdir(parents=True)
    write_files(root, {"LOC_val_solution.csv": "".join(["ImageId,PredictionString\n", *rows]).encode()})
    inside = write_train(root / "ILSVRC" / "Data" / "CLS-LOC", data)
    write_files(inside, {f"val/{name}": file for name, (_, file) in data.val.items()})
    write_files(inside, {"test/ILSVRC2012_test_00000001.JPEG": b"no label"})
    return root


def write_flat(root: Path, data: Ilsvrc) -> Path:
    """train/<wnid>/, flat val/ and the kit as a folder."""
    write_files(root, {f"val/{name}": file for name, (_, file) in data.val.items()})
    write_devkit(root, meta_mat(), truth_of(data), packed=False)
    return write_train(root, data)


LAYOUTS: Mapping[str, Callable[[Path, Ilsvrc], Path]] = {
    "archives": write_archives,
    "tree": write_tree,
    "kaggle": write_kaggle,
    "flat": write_flat,
}


def content(scan: Scan) -> dict[str, bytes]:
    """Key -> bytes, where the scan says that they lie."""
    found = {}
    for key, file, offset, length in zip(scan.keys, scan.file, scan.offset, scan.length, strict=True):
        data = (scan.root / scan.files[file]).read_bytes()
        found[key] = data[offset : offset + length]
        assert offset + length <= len(data)
    return found
