"""A sheet of labelled samples from a folder of class folders: to see at a glance what a data set holds."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from loaders.errors import InputError
from loaders.files import write_atomically

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_LABEL_WIDTH = 120


def contact_sheet(folder: Path, path: Path, *, per_class: int = 8, side: int = 96, seed: int = 0) -> Path:
    """Draw one row a class: its name, then random samples, each cropped to a square of `side` pixels.

    Args:
        folder: holds one folder a class, each with JPEG or PNG files.
        path: where the sheet goes, a PNG.
        per_class: samples a row at most.
        side: pixels of a sample's side.
        seed: chooses the samples.

    Returns:
        `path`.

    Raises:
        InputError: there is no image in any class folder.
    """
    rows: list[tuple[str, list[Path]]] = []
    for class_folder in sorted(child for child in folder.iterdir() if child.is_dir()):
        files = sorted(file for file in class_folder.iterdir() if file.suffix.lower() in _SUFFIXES)
        chosen = random.Random(f"{seed}/{class_folder.name}").sample(files, min(per_class, len(files)))
        rows.append((class_folder.name, chosen))
    if not any(files for _, files in rows):
        raise InputError(f"{folder} holds no JPEG or PNG file in a folder of its class: name the folder above those.")

    sheet = Image.new("RGB", (_LABEL_WIDTH + per_class * side, len(rows) * side), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, files) in enumerate(rows):
        draw.text((4, row * side + side // 2 - 6), name, fill="black")
        for column, file in enumerate(files):
            with Image.open(file) as image:
                tile = ImageOps.fit(image.convert("RGB"), (side, side))
            sheet.paste(tile, (_LABEL_WIDTH + column * side, row * side))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    return path
