"""A classification set cut from large photographs: each is a class, and training and validation share no pixel.

    out/train/<photograph>/*.JPEG    from its left part
    out/val/<photograph>/*.JPEG      from its right part, beyond a gap

Half of the images lose their colours and each has an exposure of its own, as the demo's have, so that the mean colour
does not give the class away.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageOps
from tqdm import tqdm

from loaders import InputError

LEAST_SIDE = 900  # pixels: of a photograph's shorter side
SCALED = 1200  # that side is made to, so that all show textures at one scale
PARTS = {"train": (0.0, 0.66), "val": (0.70, 1.0)}  # shares of the width
SIDES = (140, 300)  # pixels of a cut
SAVED = 96  # pixels of an image
_QUALITY = 90


def photographs_in(folder: Path) -> dict[str, Path]:
    """The JPEGs below a folder that are large enough, by name.

    Raises:
        InputError: where there are fewer than two.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.jp*g")):
        with Image.open(path) as image:
            if min(image.size) >= LEAST_SIDE:
                found.setdefault(path.stem, path)
    if len(found) < 2:
        raise InputError(f"{folder} holds {len(found)} photographs of {LEAST_SIDE} pixels or more: two are the least.")
    return found


def make_learning_set(photographs: dict[str, Path], out: Path, *, train: int, val: int, seed: int = 0) -> Path:
    """Cuts `train` and `val` images a photograph into a tree, the same for the same seed; returns `out`."""
    for number, (name, path) in enumerate(tqdm(photographs.items(), unit="class", desc="cutting", disable=None)):
        with Image.open(path) as opened:
            scale = SCALED / min(opened.size)
            scaled = round(opened.width * scale), round(opened.height * scale)
            image = opened.convert("RGB").resize(scaled, Image.Resampling.LANCZOS)
        for split, count in (("train", train), ("val", val)):
            left, right = (round(share * image.width) for share in PARTS[split])
            folder = out / split / name
            folder.mkdir(parents=True)
            rng = random.Random(f"{seed} {number} {split}")
            for index in range(count):
                side = rng.randint(*SIDES)
                x, y = rng.randint(left, right - side), rng.randint(0, image.height - side)
                cut = image.crop((x, y, x + side, y + side)).resize((SAVED, SAVED), Image.Resampling.LANCZOS)
                _exposed(cut, rng).save(folder / f"{index:04}.JPEG", quality=_QUALITY)
    return out


def _exposed(image: Image.Image, rng: random.Random) -> Image.Image:
    black, white, gamma = rng.uniform(0, 60), rng.uniform(195, 255), rng.uniform(0.6, 1.65)
    levels = [round(black + (white - black) * (level / 255) ** gamma) for level in range(256)]
    image = image.point(levels * 3)
    return ImageOps.grayscale(image).convert("RGB") if rng.random() < 0.5 else image
