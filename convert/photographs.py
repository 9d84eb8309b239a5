"""Two small real data sets for the demo, cut from the photographs that scikit-image and scikit-learn install.

    out/photographs/{train,val}/<subject>/*.JPEG          laid out as ImageNet is once extracted: to pretrain on
    out/dtd/images/<texture>/<texture>_0001.jpg           laid out as DTD: to fine-tune on, in ten folds
    out/dtd/labels/{train,val,test}{1..10}.txt
    out/demo_sets.json                                    the photograph and box that every image was cut from

The two sets share no photograph. In the first, training and validation images are cut from two parts of a photograph
that share no pixel; in the second, a photograph is divided into tiles, an image lies in one tile, and a fold gives
whole tiles to its splits. So what a test image shows was never trained on, neither at pretraining nor at fine-tuning.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, features

from convert.threads import in_threads
from loaders.errors import InputError
from loaders.files import write_atomically

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the photograph; right and bottom are outside

FORMAT = 1  # raised whenever the same arguments would give other bytes
MANIFEST = "demo_sets.json"
UNFINISHED = "demo_sets.unfinished.json"
NUM_FOLDS = 10
SPLITS = ("train", "val", "test")
SIDES = (300, 540)  # pixels: every side of every image lies within
_LONG_SIDES = (440, 520)
_RATIOS = (0.85, 1.4)  # width / height
_SHARES = (0.6, 1.0)  # of the largest box of its ratio that the part of the photograph holds
_QUALITY = 90
# Half of the images lose their colours and each has an exposure of its own: else the mean colour would give the class
# away, a network would learn it in a few steps from scratch, and what it learned in pretraining would not show.
_GRAY_SHARE = 0.5
_BLACKS = (0.0, 60.0)  # the level that black becomes
_WHITES = (195.0, 255.0)
_GAMMAS = (0.6, 1.65)
_NUM_TILES = 12  # of every texture: columns x rows
_FOLDERS = ("photographs", "dtd")
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


class Subject(NamedTuple):
    """A class of the classification set: two parts of a photograph that look alike and share no pixel."""

    name: str
    photograph: str
    train: Box
    val: Box


class Texture(NamedTuple):
    """A class of the DTD-shaped set: a photograph divided into a grid of tiles."""

    name: str
    photograph: str
    region: Box
    columns: int
    rows: int


# Several subjects come from one photograph, so that its palette alone does not give the class away.
SUBJECTS = (
    Subject("boxes", "skimage/data/motorcycle_left.png", (500, 20, 620, 250), (620, 20, 741, 250)),
    Subject("cat", "skimage/data/chelsea.png", (0, 0, 235, 300), (235, 0, 400, 300)),
    Subject("cup", "skimage/data/coffee.png", (65, 10, 270, 390), (270, 10, 475, 390)),
    Subject("dahlia", "sklearn/datasets/images/flower.jpg", (178, 85, 308, 360), (308, 85, 438, 360)),
    Subject("floodlights", "skimage/data/rocket.jpg", (95, 310, 300, 427), (345, 310, 560, 427)),
    Subject("lawn", "skimage/data/camera.png", (400, 375, 512, 512), (400, 240, 512, 375)),
    Subject("mast", "skimage/data/rocket.jpg", (0, 0, 92, 330), (560, 0, 640, 427)),
    Subject("pagoda", "sklearn/datasets/images/china.jpg", (60, 20, 205, 390), (205, 20, 370, 390)),
    Subject("skyline", "skimage/data/camera.png", (330, 140, 415, 238), (415, 120, 512, 238)),
    Subject("spacesuit", "skimage/data/astronaut.png", (25, 200, 170, 512), (170, 260, 300, 420)),
    Subject("table", "skimage/data/coffee.png", (480, 0, 600, 210), (480, 210, 600, 400)),
    Subject("tree", "sklearn/datasets/images/china.jpg", (385, 300, 510, 427), (510, 280, 640, 427)),
    Subject("wheel", "skimage/data/motorcycle_left.png", (125, 240, 265, 415), (550, 290, 685, 455)),
)
TEXTURES = (
    Texture("bricked", "skimage/data/brick.png", (0, 0, 512, 512), 4, 3),
    Texture("cratered", "skimage/data/moon.png", (0, 0, 512, 512), 4, 3),
    Texture("embossed", "skimage/data/coins.png", (0, 0, 384, 303), 4, 3),
    Texture("glandular", "skimage/data/ihc.png", (0, 0, 512, 512), 4, 3),
    Texture("grassy", "skimage/data/grass.png", (0, 0, 512, 512), 4, 3),
    Texture("pebbled", "skimage/data/gravel.png", (0, 0, 512, 512), 4, 3),
    Texture("printed", "skimage/data/page.png", (0, 0, 384, 191), 6, 2),
    Texture("scrawled", "skimage/data/text.png", (0, 0, 448, 172), 6, 2),
    Texture("starry", "skimage/data/hubble_deep_field.jpg", (0, 0, 1000, 872), 4, 3),
    Texture("veined", "skimage/data/retina.jpg", (210, 210, 1200, 1200), 4, 3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSets:
    """Where the two sets are and what they hold.

    Attributes:
        photographs: the classification set: `train/<subject>/*.JPEG` and `val/<subject>/*.JPEG`.
        dtd: the set laid out as DTD: `images/` and `labels/`.
        manifest: the JSON file that names the photograph and box of every image.
        num_bytes: of all images together.
        reused: whether they were there already.
    """

    photographs: Path
    dtd: Path
    manifest: Path
    num_subjects: int
    num_train: int
    num_val: int
    num_textures: int
    num_texture_images: int
    num_bytes: int
    reused: bool


class _Cut(NamedTuple):
    """One image to write: a box of a photograph, resized."""

    path: str
    photograph: str
    box: Box
    size: tuple[int, int]
    gray: bool
    black: float
    white: float
    gamma: float


def make_demo_sets(
    out: Path,
    *,
    seed: int = 0,
    train_per_class: int = 64,
    val_per_class: int = 16,
    texture_per_class: int = 48,
    progress: bool = True,
) -> DemoSets:
    """Write both sets below `out`, or reuse those that are there.

    The same arguments and library versions give the same bytes. What an interrupted call left is written anew; files
    that this function did not write are never removed.

    Args:
        out: the folder that receives `photographs`, `dtd` and the manifest; made where it does not exist.
        seed: chooses the boxes and the folds.
        train_per_class: training images of a subject.
        val_per_class: validation images of a subject.
        texture_per_class: images of a texture: a multiple of 12, as each of its 12 tiles gives as many; a third of them
            goes to each split of a fold.
        progress: draw a bar on standard error.

    Raises:
        InputError: a count is out of range, a package with the photographs is missing, or a file is in the way.
    """
    for name, count in (("train_per_class", train_per_class), ("val_per_class", val_per_class)):
        if count < 1:
            raise InputError(f"{name} is {count}: it must be at least 1.")
    if texture_per_class < 1 or texture_per_class % _NUM_TILES:
        raise InputError(f"texture_per_class is {texture_per_class}: it must be a positive multiple of {_NUM_TILES}.")

    files = _find_photographs()
    cuts = [*_plan_subjects(seed, train_per_class, val_per_class), *_plan_textures(seed, texture_per_class)]
    labels = _plan_labels(seed, texture_per_class)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "made_with": _versions(),
        "seed": seed,
        "train_per_class": train_per_class,
        "val_per_class": val_per_class,
        "texture_per_class": texture_per_class,
        "images": {cut.path: {"photograph": cut.photograph, "box": list(cut.box)} for cut in cuts},
        "labels": sorted(labels),
    }
    paths = [*manifest["images"], *manifest["labels"]]
    reused = _read_manifest(out / MANIFEST) == manifest and all((out / path).is_file() for path in paths)
    if not reused:
        _remove_ours(out)
        _write_manifest(out / UNFINISHED, manifest)
        _write_images(out, cuts, files, progress)
        for path, text in labels.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(text, encoding="ascii")
        os.replace(out / UNFINISHED, out / MANIFEST)
    return DemoSets(
        photographs=out / "photographs",
        dtd=out / "dtd",
        manifest=out / MANIFEST,
        num_subjects=len(SUBJECTS),
        num_train=len(SUBJECTS) * train_per_class,
        num_val=len(SUBJECTS) * val_per_class,
        num_textures=len(TEXTURES),
        num_texture_images=len(TEXTURES) * texture_per_class,
        num_bytes=sum((out / cut.path).stat().st_size for cut in cuts),
        reused=reused,
    )


def _versions() -> dict[str, str]:
    """What decides the bytes: the photographs' packages, and Pillow with the libjpeg that it writes with."""
    versions = {name: importlib.metadata.version(name) for name in (*_DISTRIBUTIONS.values(), "pillow")}
    return {**versions, "libjpeg": str(features.version("jpg"))}


def _find_photographs() -> dict[str, Path]:
    """Where each photograph is installed; looks the packages up without importing them, which takes seconds."""
    found = {}
    for photograph in {kind.photograph for kind in (*SUBJECTS, *TEXTURES)}:
        package, _, rest = photograph.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"{_DISTRIBUTIONS[package]} is not installed, whose photographs the demo is cut from: "
                "run pip install 'twistnet[demo]'."
            )
        found[photograph] = Path(spec.submodule_search_locations[0], rest)
        if not found[photograph].is_file():
            raise InputError(
                f"{found[photograph]} is missing from the installed {_DISTRIBUTIONS[package]}: "
                f"run pip install --force-reinstall {_DISTRIBUTIONS[package]}."
            )
    return found


def _plan_subjects(seed: int, train_per_class: int, val_per_class: int) -> Iterator[_Cut]:
    for subject in SUBJECTS:
        for split, part, count in (("train", subject.train, train_per_class), ("val", subject.val, val_per_class)):
            infix = "_val" if split == "val" else ""
            for number in range(1, count + 1):
                path = f"photographs/{split}/{subject.name}/{subject.name}{infix}_{number:04d}.JPEG"
                yield _draw_cut(seed, path, subject.photograph, part)


def _plan_textures(seed: int, per_class: int) -> Iterator[_Cut]:
    for texture in TEXTURES:
        tiles = _tiles(texture)
        for index in range(per_class):
            path = f"dtd/images/{_texture_image(texture, index)}"
            yield _draw_cut(seed, path, texture.photograph, tiles[index % _NUM_TILES])


def _plan_labels(seed: int, per_class: int) -> dict[str, str]:
    """The text of every file of labels, by its path: ten folds, and each image with its class as DTD lists them."""
    lines: dict[str, list[str]] = {}
    for texture in TEXTURES:
        for fold in range(1, NUM_FOLDS + 1):
            rng = random.Random(f"{seed}/fold{fold}/{texture.name}")
            keys = [rng.random() for _ in range(_NUM_TILES)]
            ranks = {tile: rank for rank, tile in enumerate(sorted(range(_NUM_TILES), key=keys.__getitem__))}
            for index in range(per_class):
                split = SPLITS[ranks[index % _NUM_TILES] * len(SPLITS) // _NUM_TILES]
                lines.setdefault(f"dtd/labels/{split}{fold}.txt", []).append(_texture_image(texture, index))
        joint = [f"{_texture_image(texture, index)} {texture.name}" for index in range(per_class)]
        lines.setdefault("dtd/labels/labels_joint_anno.txt", []).extend(joint)
    return {path: "".join(f"{line}\n" for line in rows) for path, rows in lines.items()}


def _texture_image(texture: Texture, index: int) -> str:
    return f"{texture.name}/{texture.name}_{index + 1:04d}.jpg"


def _tiles(texture: Texture) -> list[Box]:
    left, top, right, bottom = texture.region
    xs = [left + (right - left) * column // texture.columns for column in range(texture.columns + 1)]
    ys = [top + (bottom - top) * row // texture.rows for row in range(texture.rows + 1)]
    return [(x0, y0, x1, y1) for y0, y1 in itertools.pairwise(ys) for x0, x1 in itertools.pairwise(xs)]


def _draw_cut(seed: int, path: str, photograph: str, part: Box) -> _Cut:
    """A random box inside `part` and the size of the image made from it.

    Keyed by the image's own path, and drawn with `random()` only, the one method whose values Python promises to keep.
    """
    rng = random.Random(f"{seed}/{path}")
    ratio = _between_logs(rng, *_RATIOS)
    part_width, part_height = part[2] - part[0], part[3] - part[1]
    height_drawn = min(part_height, part_width / ratio) * _between(rng, *_SHARES)
    width, height = int(height_drawn * ratio), int(height_drawn)
    left = part[0] + int(rng.random() * (part_width - width + 1))
    top = part[1] + int(rng.random() * (part_height - height + 1))
    scale = _between(rng, *_LONG_SIDES) / max(width, height)
    size = (round(width * scale), round(height * scale))
    gray = rng.random() < _GRAY_SHARE
    black, white = _between(rng, *_BLACKS), _between(rng, *_WHITES)
    gamma = _between_logs(rng, *_GAMMAS)
    return _Cut(path, photograph, (left, top, left + width, top + height), size, gray, black, white, gamma)


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _between_logs(rng: random.Random, low: float, high: float) -> float:
    return math.exp(_between(rng, math.log(low), math.log(high)))


def _write_images(out: Path, cuts: Sequence[_Cut], files: dict[str, Path], progress: bool) -> None:
    photographs = {}
    for name in sorted({cut.photograph for cut in cuts}):
        with Image.open(files[name]) as photograph:
            photographs[name] = photograph.convert("RGB")
    for folder in sorted({(out / cut.path).parent for cut in cuts}):
        folder.mkdir(parents=True, exist_ok=True)

    def write(cut: _Cut) -> None:
        # Cropped first, so that the resize cannot mix in a pixel from outside the box.
        image = photographs[cut.photograph].crop(cut.box).resize(cut.size, Image.Resampling.BICUBIC)
        if cut.gray:
            image = image.convert("L").convert("RGB")
        tones = [round(cut.black + (cut.white - cut.black) * (level / 255) ** cut.gamma) for level in range(256)]
        image = image.point(tones * 3)
        image.save(out / cut.path, "JPEG", quality=_QUALITY)

    # Pillow resizes and compresses without the interpreter's lock.
    workers = min(8, os.cpu_count() or 1)
    in_threads(lambda place: write(cuts[place]), len(cuts), workers, desc="demo sets", shown=progress)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest at `path`, or None where there is none."""
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest["images"], dict) and isinstance(manifest["labels"], list):
            return dict(manifest)
    except (OSError, ValueError, TypeError, LookupError):
        pass
    raise InputError(f"{path} is not a manifest of the demo's sets: move it away or choose another folder.")


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(manifest)
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written ({error.strerror}): choose another folder.") from error


def _remove_ours(out: Path) -> None:
    """Remove what an earlier call wrote, going by its manifest; refuse before anything is removed if more is there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder, which is made where it does not exist.")
    manifests = [out / MANIFEST, out / UNFINISHED]
    ours: set[Path] = set()
    for manifest in filter(None, map(_read_manifest, manifests)):
        ours.update(out / path for path in (*manifest["images"], *manifest["labels"]))
    found = [path for folder in _FOLDERS for path in _below(out / folder)]
    foreign = [path for path in found if path not in ours and (path.is_symlink() or not path.is_dir())]
    if foreign:
        raise InputError(f"{foreign[0]} is in the way and was not written here: move it away or choose another folder.")
    for path in found:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    for path in manifests:
        path.unlink(missing_ok=True)


def _below(folder: Path) -> Iterator[Path]:
    """Everything at and below a folder, contents before their folder; symbolic links are listed, never followed."""
    if folder.is_symlink() or not folder.is_dir():
        if os.path.lexists(folder):
            yield folder
        return
    for child in sorted(folder.iterdir()):
        yield from _below(child)
    yield folder
