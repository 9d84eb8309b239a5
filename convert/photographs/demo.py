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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from convert.photographs import own_files
from convert.photographs.cutting import Box, Cut, Look, draw_cut, find_photographs, versions
from convert.photographs.textures import NUM_TILES, Texture, plan_labels, plan_textures
from loaders.errors import InputError

FORMAT = 1  # raised whenever the same arguments would give other bytes
MANIFEST = "demo_sets.json"
SIDES = (300, 540)  # pixels: every side of every image lies within
# Half of the images lose their colours and each has an exposure of its own: else the mean colour would give the class
# away, a network would learn it in a few steps from scratch, and what it learned in pretraining would not show.
_LOOK = Look(
    shares=(0.6, 1.0),
    long_sides=(440, 520),
    gray_share=0.5,
    blacks=(0.0, 60.0),
    whites=(195.0, 255.0),
    gammas=(0.6, 1.65),
)
_FOLDERS = ("photographs", "dtd")


class Subject(NamedTuple):
    """A class of the classification set: two parts of a photograph that look alike and share no pixel."""

    name: str
    photograph: str
    train: Box
    val: Box


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
    if texture_per_class < 1 or texture_per_class % NUM_TILES:
        raise InputError(f"texture_per_class is {texture_per_class}: it must be a positive multiple of {NUM_TILES}.")

    files = find_photographs(kind.photograph for kind in (*SUBJECTS, *TEXTURES))
    cuts = [
        *_plan_subjects(seed, train_per_class, val_per_class),
        *plan_textures(TEXTURES, seed, texture_per_class, "dtd/", _LOOK),
    ]
    labels = plan_labels(TEXTURES, seed, texture_per_class, "dtd/")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "made_with": versions(),
        "seed": seed,
        "train_per_class": train_per_class,
        "val_per_class": val_per_class,
        "texture_per_class": texture_per_class,
        "images": {cut.path: {"photograph": cut.photograph, "box": list(cut.box)} for cut in cuts},
        "labels": sorted(labels),
    }
    reused = own_files.make(out, MANIFEST, _FOLDERS, manifest, cuts, labels, files, progress)
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


def _plan_subjects(seed: int, train_per_class: int, val_per_class: int) -> Iterator[Cut]:
    for subject in SUBJECTS:
        for split, part, count in (("train", subject.train, train_per_class), ("val", subject.val, val_per_class)):
            infix = "_val" if split == "val" else ""
            for number in range(1, count + 1):
                path = f"photographs/{split}/{subject.name}/{subject.name}{infix}_{number:04d}.JPEG"
                yield draw_cut(seed, path, subject.photograph, part, _LOOK)
