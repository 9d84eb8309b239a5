"""Cutting images from the photographs that scikit-image and scikit-learn install, the same bytes for the same seed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, features

from convert.threads import in_threads
from loaders.errors import InputError

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the photograph; right and bottom are outside

_RATIOS = (0.85, 1.4)  # width / height
_QUALITY = 90
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


class Look(NamedTuple):
    """What images are made to look like: ranges that each image has its own values from."""

    shares: tuple[float, float]  # of the largest box of its ratio that the part of the photograph holds
    long_sides: tuple[int, int]  # pixels of the longer side
    gray_share: float  # of the images that lose their colours
    blacks: tuple[float, float]  # the level that black becomes
    whites: tuple[float, float]
    gammas: tuple[float, float]


class Cut(NamedTuple):
    """One image to write: a box of a photograph, resized."""

    path: str
    photograph: str
    box: Box
    size: tuple[int, int]
    gray: bool
    black: float
    white: float
    gamma: float


def versions() -> dict[str, str]:
    """What decides the bytes: the photographs' packages, and Pillow with the libjpeg that it writes with."""
    versions = {name: importlib.metadata.version(name) for name in (*_DISTRIBUTIONS.values(), "pillow")}
    return {**versions, "libjpeg": str(features.version("jpg"))}


def find_photographs(wanted: Iterable[str]) -> dict[str, Path]:
    """Where each photograph is installed; looks the packages up without importing them, which takes seconds.

    Args:
        wanted: photographs, as package/path/file.

    Raises:
        InputError: where a package or a photograph is missing.
    """
    found = {}
    for photograph in set(wanted):
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


def draw_cut(seed: int, path: str, photograph: str, part: Box, look: Look) -> Cut:
    """A random box inside `part` and the size of the image made from it.

    Keyed by the image's own path, and drawn with `random()` only, the one method whose values Python promises to keep.
    """
    rng = random.Random(f"{seed}/{path}")
    ratio = _between_logs(rng, *_RATIOS)
    part_width, part_height = part[2] - part[0], part[3] - part[1]
    height_drawn = min(part_height, part_width / ratio) * _between(rng, *look.shares)
    width, height = int(height_drawn * ratio), int(height_drawn)
    left = part[0] + int(rng.random() * (part_width - width + 1))
    top = part[1] + int(rng.random() * (part_height - height + 1))
    scale = _between(rng, *look.long_sides) / max(width, height)
    size = (round(width * scale), round(height * scale))
    gray = rng.random() < look.gray_share
    black, white = _between(rng, *look.blacks), _between(rng, *look.whites)
    gamma = _between_logs(rng, *look.gammas)
    return Cut(path, photograph, (left, top, left + width, top + height), size, gray, black, white, gamma)


def write_images(out: Path, cuts: Sequence[Cut], files: dict[str, Path], progress: bool) -> None:
    """Cuts all of them; `files` says where each photograph is."""
    photographs = {}
    for name in sorted({cut.photograph for cut in cuts}):
        with Image.open(files[name]) as photograph:
            photographs[name] = photograph.convert("RGB")
    for folder in sorted({(out / cut.path).parent for cut in cuts}):
        folder.mkdir(parents=True, exist_ok=True)

    def write(cut: Cut) -> None:
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


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _between_logs(rng: random.Random, low: float, high: float) -> float:
    return math.exp(_between(rng, math.log(low), math.log(high)))
