"""Fetching a data set with torchvision's own downloader, into the folders that it makes."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

from convert import counting
from convert.sources import find_source
from loaders.errors import InputError, one_line
from loaders.layouts import LAYOUTS
from loaders.layouts.layout import Layout

# What torchvision calls the folder of a data set, and the one that it takes for all of it in there.
_FOLDERS = {"dtd": ("dtd", "dtd"), "flowers": ("flowers-102", "jpg")}
DATASETS = tuple(_FOLDERS)


def fetch(name: str, out: Path, *, download: bool) -> tuple[list[str], bool]:
    """Makes a data set be there, and holds it to the numbers and the MD5s published.

    What is there already is checked and not fetched again.

    Args:
        name: of DATASETS.
        out: its folder: where its name is not torchvision's, a folder of that name is made in it.
        download: whether what is missing may be fetched.

    Returns:
        What was found, in lines; and whether all of it is as published.

    Raises:
        InputError: where it is not there and may not or cannot be fetched, or its archive is another.
    """
    layout = LAYOUTS[name]
    lines = []
    if layout.recognise(out):
        lines.append(f"{out} holds {layout.title} already, nothing is fetched.")
    elif download:
        _download(layout, out)
    else:
        raise InputError(f"{out} holds no {layout.title}: add --download, or {_by_hand(layout, out)}.")
    scan = find_source(out, "all", name)
    found = counting.count(scan)
    lines += counting.describe(found)
    known, folders = counting.archives_of(scan)
    if any((folder / archive).is_file() for folder in (out, *folders) for archive in known):
        lines += counting.check_md5([out, *folders], known)
    if not found.is_published:
        lines.append(f"Remove {scan.root} and start this again with --download.")
    return lines, bool(found.is_published)


def _download(layout: Layout, out: Path) -> None:
    from torchvision import datasets

    folder, whole = _FOLDERS[layout.name]
    base = _base(layout, out)
    if layout.name == "dtd" and (base / whole).exists():
        raise InputError(f"{base / whole} is there and is not whole: remove it and start this again.")
    make = {"dtd": datasets.DTD, "flowers": datasets.Flowers102}[layout.name]
    try:
        if layout.name == "flowers":
            import scipy.io  # noqa: F401  without which torchvision fails only when all is fetched
        make(base.parent, split="train", download=True)
    except ImportError as error:
        raise InputError("reading Flowers-102 needs scipy: pip install 'twistnet[convert]'.") from error
    except (OSError, RuntimeError) as error:  # the network's are OSErrors, a wrong MD5 is a RuntimeError
        reason = one_line(error.reason if isinstance(error, URLError) else error, 120)
        raise InputError(f"{layout.title} cannot be downloaded ({reason}): {_by_hand(layout, out)}.") from error
    if not layout.recognise(out):
        raise InputError(f"{base} holds no {folder} after the download: remove it and start this again.")


def _base(layout: Layout, out: Path) -> Path:
    """The folder that torchvision makes, which the archives go to."""
    folder, _ = _FOLDERS[layout.name]
    return out if out.absolute().name == folder else out / folder


def _by_hand(layout: Layout, out: Path) -> str:
    if layout.facts is None:
        raise ValueError(f"{layout.name} is not published")
    archives = ", ".join(layout.facts.md5)
    return f"put {archives} from {layout.facts.home} into {_base(layout, out)} by hand and start this with --download"
