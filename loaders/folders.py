"""Which files of a data set are images, and what its lists say: nothing is opened but a list."""

from __future__ import annotations

import os
from pathlib import Path

from loaders.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
PREPARING = ".preparing"  # in a split's folder whose images are not all there yet


def is_image(name: str) -> bool:
    """Whether a name is an image's: by its suffix, and not within anything hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".") and "/." not in name


def folders(path: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones; [] where there is no such folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def images(path: Path) -> list[str]:
    """Sorted names of the images right in a folder; [] where there is no such folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if is_image(entry.name) and not entry.is_dir())


def images_below(folder: Path, name: str) -> list[str]:
    """Sorted images of a class at any depth (Tiny-ImageNet keeps them in <class>/images/), as names below `folder`.

    Raises:
        InputError: where a link leads in a circle.
    """
    files: list[str] = []
    pending = [name]
    while pending:
        current = pending.pop()
        with os.scandir(folder / current) as entries:
            for entry in entries:
                inside = f"{current}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.is_symlink() and _holds(entry.path, folder / current):
                        raise InputError(f"{entry.path} links to a folder that holds it: remove the link.")
                    pending.append(inside)
                # A link that leads nowhere is listed too, so that reading it names it; a pipe would be waited for.
                elif is_image(entry.name) and (entry.is_file() or entry.is_symlink()):
                    files.append(inside)
    return sorted(files)


def has_image(path: Path, *, below: bool = False) -> bool:
    """Whether an image lies right in the folder, or anywhere below it; stops at the first."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        if any(is_image(entry.name) and not entry.is_dir() for entry in entries):
            return True
    return below and any(
        has_image(path / name, below=True)
        for name in folders(path)
        if not ((path / name).is_symlink() and _holds(str(path / name), path))
    )


def lines(path: Path) -> list[str]:
    """The lines of a text file, without the space around them; empty ones at its end are dropped.

    Raises:
        InputError: where it cannot be read as UTF-8, or has an empty line before its end.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): fetch it again.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): fetch it again.") from error
    found = [line.strip() for line in text.rstrip().splitlines()]
    if "" in found:
        raise InputError(f"{path} is empty at line {found.index('') + 1}, before its end: fetch it again.")
    return found


def _holds(link: str, folder: Path) -> bool:
    """Whether a link leads to the folder that it lies in, or to one above."""
    target = os.path.realpath(link)
    return os.path.commonpath((target, os.path.realpath(folder))) == target
