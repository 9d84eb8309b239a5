"""Classes of a set laid out as DTD: a photograph divided into tiles, whole tiles to a split, and ten lists of each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from convert.photographs.cutting import Box, Cut, Look, draw_cut

NUM_FOLDS = 10
SPLITS = ("train", "val", "test")
NUM_TILES = 12  # of every texture: columns x rows


class Texture(NamedTuple):
    """A class of the DTD-shaped set: a photograph divided into a grid of tiles."""

    name: str
    photograph: str
    region: Box
    columns: int
    rows: int


def plan_textures(textures: Sequence[Texture], seed: int, per_class: int, folder: str, look: Look) -> Iterator[Cut]:
    """The images of every texture, each in one of its tiles in turn, below `folder`images/."""
    for texture in textures:
        tiles = _tiles(texture)
        for index in range(per_class):
            path = f"{folder}images/{_texture_image(texture, index)}"
            yield draw_cut(seed, path, texture.photograph, tiles[index % NUM_TILES], look)


def plan_labels(textures: Sequence[Texture], seed: int, per_class: int, folder: str) -> dict[str, str]:
    """The text of every file of labels, by its path: ten folds, and each image with its class as DTD lists them."""
    lines: dict[str, list[str]] = {}
    for texture in textures:
        for fold in range(1, NUM_FOLDS + 1):
            rng = random.Random(f"{seed}/fold{fold}/{texture.name}")
            keys = [rng.random() for _ in range(NUM_TILES)]
            ranks = {tile: rank for rank, tile in enumerate(sorted(range(NUM_TILES), key=keys.__getitem__))}
            for index in range(per_class):
                split = SPLITS[ranks[index % NUM_TILES] * len(SPLITS) // NUM_TILES]
                lines.setdefault(f"{folder}labels/{split}{fold}.txt", []).append(_texture_image(texture, index))
        joint = [f"{_texture_image(texture, index)} {texture.name}" for index in range(per_class)]
        lines.setdefault(f"{folder}labels/labels_joint_anno.txt", []).extend(joint)
    return {path: "".join(f"{line}\n" for line in rows) for path, rows in lines.items()}


def _texture_image(texture: Texture, index: int) -> str:
    return f"{texture.name}/{texture.name}_{index + 1:04d}.jpg"


def _tiles(texture: Texture) -> list[Box]:
    left, top, right, bottom = texture.region
    xs = [left + (right - left) * column // texture.columns for column in range(texture.columns + 1)]
    ys = [top + (bottom - top) * row // texture.rows for row in range(texture.rows + 1)]
    return [(x0, y0, x1, y1) for y0, y1 in itertools.pairwise(ys) for x0, x1 in itertools.pairwise(xs)]
