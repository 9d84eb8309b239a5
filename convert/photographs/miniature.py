"""A miniature of DTD from real photographs: 47 classes, ten folds, DTD's own folders and lists.

    out/images/<class>/<class>_0001.jpg
    out/labels/{train,val,test}{1..10}.txt
    out/miniature_dtd.json                     the photograph and box that every image was cut from

A class is a region of a photograph, divided into twelve tiles; an image lies in one tile, and a fold gives whole tiles
to its splits, so no pixel is shared over splits. No region shares a pixel with the demo's photographs that networks are
pretrained on (`convert.photographs.demo.SUBJECTS`), nor with another class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convert.photographs import own_files
from convert.photographs.cutting import Look, find_photographs, versions
from convert.photographs.textures import NUM_TILES, Texture, plan_labels, plan_textures
from loaders.errors import InputError

FORMAT = 1  # raised whenever the same arguments would give other bytes
MANIFEST = "miniature_dtd.json"
SIDES = (96, 300)  # pixels: every side of every image lies within
# Gentler than the demo's: tiles are small, and with few images of many classes colours are needed.
_LOOK = Look(
    shares=(0.8, 1.0),
    long_sides=(140, 220),
    gray_share=0.2,
    blacks=(0.0, 30.0),
    whites=(225.0, 255.0),
    gammas=(0.8, 1.25),
)

CLASSES = (
    Texture("bladed", "skimage/data/grass.png", (0, 340, 256, 512), 4, 3),
    Texture("blotched", "skimage/data/moon.png", (200, 40, 400, 480), 3, 4),
    Texture("blurred", "skimage/data/clock_motion.png", (130, 90, 280, 220), 4, 3),
    Texture("bricked", "skimage/data/brick.png", (0, 0, 512, 340), 4, 3),
    Texture("chromed", "skimage/data/motorcycle_left.png", (310, 235, 470, 400), 4, 3),
    Texture("clouded", "skimage/data/cell.png", (0, 0, 550, 260), 4, 3),
    Texture("coated", "skimage/data/camera.png", (20, 130, 230, 400), 3, 4),
    Texture("domed", "skimage/data/cell.png", (355, 300, 500, 440), 4, 3),
    Texture("doored", "skimage/data/motorcycle_left.png", (0, 0, 120, 140), 3, 4),
    Texture("dusky", "skimage/data/rocket.jpg", (95, 0, 290, 110), 4, 3),
    Texture("dusty", "skimage/data/moon.png", (0, 130, 200, 512), 3, 4),
    Texture("embossed", "skimage/data/coins.png", (0, 0, 384, 303), 4, 3),
    Texture("faced", "skimage/data/astronaut.png", (150, 10, 280, 160), 3, 4),
    Texture("flagged", "skimage/data/astronaut.png", (0, 0, 110, 198), 3, 4),
    Texture("floored", "skimage/data/motorcycle_left.png", (0, 425, 545, 497), 6, 2),
    Texture("focused", "skimage/data/camera.png", (232, 60, 328, 236), 3, 4),
    Texture("glandular", "skimage/data/ihc.png", (0, 0, 260, 230), 4, 3),
    Texture("glowing", "skimage/data/retina.jpg", (520, 540, 940, 840), 4, 3),
    Texture("grassy", "skimage/data/grass.png", (0, 0, 512, 340), 4, 3),
    Texture("haloed", "skimage/data/retina.jpg", (80, 500, 380, 820), 4, 3),
    Texture("honeycombed", "skimage/data/ihc.png", (255, 305, 383, 500), 3, 4),
    Texture("leafy", "sklearn/datasets/images/china.jpg", (550, 130, 640, 278), 3, 4),
    Texture("legged", "skimage/data/camera.png", (240, 300, 398, 512), 3, 4),
    Texture("misty", "sklearn/datasets/images/china.jpg", (380, 180, 545, 275), 4, 3),
    Texture("mortared", "skimage/data/brick.png", (0, 340, 256, 512), 4, 3),
    Texture("pebbled", "skimage/data/gravel.png", (0, 0, 512, 340), 4, 3),
    Texture("petalled", "sklearn/datasets/images/flower.jpg", (285, 370, 444, 427), 6, 2),
    Texture("planked", "skimage/data/coffee.png", (0, 0, 62, 400), 2, 6),
    Texture("printed", "skimage/data/page.png", (0, 0, 384, 191), 6, 2),
    Texture("rimmed", "skimage/data/retina.jpg", (1180, 250, 1411, 1150), 2, 6),
    Texture("saddled", "skimage/data/motorcycle_left.png", (180, 145, 310, 225), 4, 3),
    Texture("scrawled", "skimage/data/text.png", (0, 0, 448, 172), 6, 2),
    Texture("shelved", "skimage/data/motorcycle_left.png", (330, 0, 498, 115), 4, 3),
    Texture("shuttled", "skimage/data/astronaut.png", (360, 10, 470, 260), 3, 4),
    Texture("skied", "sklearn/datasets/images/china.jpg", (380, 0, 545, 150), 4, 3),
    Texture("slatted", "skimage/data/motorcycle_left.png", (60, 145, 180, 235), 4, 3),
    Texture("speckled", "skimage/data/hubble_deep_field.jpg", (520, 620, 820, 840), 4, 3),
    Texture("spoked", "skimage/data/motorcycle_left.png", (472, 252, 548, 420), 2, 6),
    Texture("starry", "skimage/data/hubble_deep_field.jpg", (0, 0, 1000, 600), 4, 3),
    Texture("stony", "skimage/data/gravel.png", (0, 340, 256, 512), 4, 3),
    Texture("stromal", "skimage/data/ihc.png", (385, 290, 512, 512), 3, 4),
    Texture("tanked", "skimage/data/motorcycle_left.png", (325, 130, 495, 232), 4, 3),
    Texture("tapered", "skimage/data/rocket.jpg", (300, 110, 342, 427), 2, 6),
    Texture("turfed", "skimage/data/camera.png", (142, 425, 238, 512), 4, 3),
    Texture("veined", "skimage/data/retina.jpg", (350, 120, 1050, 500), 4, 3),
    Texture("velvety", "sklearn/datasets/images/flower.jpg", (445, 0, 640, 380), 3, 4),
    Texture("visored", "skimage/data/astronaut.png", (305, 345, 512, 512), 4, 3),
)


def make_miniature_dtd(out: Path, *, seed: int = 0, per_class: int = 12, progress: bool = False) -> Path:
    """Writes the set, or keeps the one that is there.

    The same arguments and library versions give the same bytes. What an interrupted call left is written anew; files
    that this function did not write are never removed.

    Args:
        out: the set's folder; made where it does not exist.
        seed: chooses the boxes and the folds.
        per_class: images of a class; with a multiple of 12 a third of them goes to each split of a fold.
        progress: draw a bar on standard error.

    Returns:
        `out`.

    Raises:
        InputError: there are fewer images than tiles, a package with the photographs is missing, or a file is in the
            way.
    """
    if per_class < NUM_TILES:
        raise InputError(f"per_class is {per_class}: it must be at least {NUM_TILES}, one image a tile.")
    files = find_photographs(each.photograph for each in CLASSES)
    cuts = list(plan_textures(CLASSES, seed, per_class, "", _LOOK))
    labels = plan_labels(CLASSES, seed, per_class, "")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "made_with": versions(),
        "seed": seed,
        "per_class": per_class,
        "images": {cut.path: {"photograph": cut.photograph, "box": list(cut.box)} for cut in cuts},
        "labels": sorted(labels),
    }
    own_files.make(out, MANIFEST, ("images", "labels"), manifest, cuts, labels, files, progress)
    return out
