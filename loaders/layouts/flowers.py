"""Flowers-102: `jpg/image_00001.jpg`, ..., `imagelabels.mat` and `setid.mat`.

M.-E. Nilsback and A. Zisserman, Automated flower classification over a large number of classes, 2008. Labels count from
1, as do the images that `trnid`, `valid` and `tstid` of setid.mat name: one fold. A class is named by its label, "001"
to "102".
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from loaders.errors import InputError, one_line
from loaders.folders import images
from loaders.layouts.layout import Facts, Image, Ints, Layout, Listing, first_of, make_listing

# torchvision's downloader makes flowers-102.
_NESTED = ("flowers-102", "102flowers")
_LABELS, _SPLIT = "imagelabels.mat", "setid.mat"
_KEYS = {"train1": "trnid", "val1": "valid", "test1": "tstid"}
_NAME = re.compile(r"image_(\d{5})\.jpg")
_LIMIT = (
    256 << 10
)  # bytes of a .mat file, whose content may unpack to a thousand times as many: the real ones have 15 kB
_MOST = 999  # classes: names have three digits
_AGAIN = "fetch Flowers-102 again"


def recognise(path: Path) -> str | None:
    """Numbered images in jpg/, beside one of the .mat files."""
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        return None
    beside = " and ".join(name for name in (_LABELS, _SPLIT) if (root / name).is_file())
    return f"jpg/ holds {len(images(root / 'jpg')):,} images, beside {beside}"


def read(path: Path) -> Listing:
    """Lists the images that imagelabels.mat has labels of.

    Raises:
        InputError: where a file is missing, torn or hostile, images and labels do not belong together, or scipy is
            not installed.
    """
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        raise InputError(f"{path} is no Flowers-102 folder: it must hold jpg/, {_LABELS} and {_SPLIT}.")
    labels = _arrays(root / _LABELS, ("labels",))["labels"]
    chosen = _arrays(root / _SPLIT, tuple(_KEYS.values()))
    if not len(labels) or labels.min() < 1 or labels.max() > _MOST:
        raise InputError(f"{root / _LABELS} holds labels outside 1 to {_MOST}, or none: {_AGAIN}.")
    numbers = [int(match[1]) for name in images(root / "jpg") if (match := _NAME.fullmatch(name))]
    if numbers != list(range(1, len(labels) + 1)):
        odd = min(set(numbers) ^ set(range(1, len(labels) + 1)))
        raise InputError(
            f"{root / 'jpg'} holds {len(numbers):,} images where {_LABELS} has {len(labels):,} labels, and "
            f"{_name(odd)} is only in one of them: {_AGAIN}."
        )
    classes = [f"{label:03d}" for label in range(1, int(labels.max()) + 1)]
    found = [Image(int(label) - 1, _name(number), f"jpg/{_name(number)}") for number, label in enumerate(labels, 1)]
    splits = {split: [f"jpg/{_name(int(number))}" for number in chosen[key]] for split, key in _KEYS.items()}
    return make_listing(root, classes, found, splits, _AGAIN, keep_order=True)


def _name(number: int) -> str:
    return f"image_{number:05d}.jpg"


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, Ints]:
    """Arrays of whole numbers from a .mat file, by name: (N,) each."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError("reading Flowers-102 needs scipy: pip install 'twistnet[convert]'.") from error
    try:
        size = path.stat().st_size
        if size > _LIMIT:
            raise InputError(f"{path} has {size:,} bytes, more than the {_LIMIT:,} of any such file: {_AGAIN}.")
        held = loadmat(path, variable_names=list(names))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {_AGAIN}.") from error
    except InputError:
        raise
    # scipy raises errors of many kinds, whatever the torn bytes lead to.
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise InputError(f"{path} cannot be read ({reason}): {_AGAIN}.") from error
    found: dict[str, Ints] = {}
    for name in names:
        array = held.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf" or array.size != max(array.shape):
            raise InputError(f"{path} holds no row of numbers named {name}: {_AGAIN}.")
        whole = np.asarray(array, dtype=np.float64).ravel()
        if not (np.isfinite(whole).all() and (whole == np.floor(whole)).all() and (np.abs(whole) < 1e9).all()):
            raise InputError(f"{name} of {path} holds what is no whole number: {_AGAIN}.")
        found[name] = whole.astype(np.int64)
    return found


def _is_root(path: Path) -> bool:
    marked = (path / _LABELS).is_file() or (path / _SPLIT).is_file()
    return marked and any(_NAME.fullmatch(name) for name in images(path / "jpg"))


LAYOUT = Layout(
    name="flowers",
    title="Flowers-102",
    folds=1,
    recognise=recognise,
    read=read,
    facts=Facts(
        classes=102,
        images=8189,
        per_class=(40, 258),
        splits={"train": 1020, "val": 1020, "test": 6149},
        md5={  # torchvision.datasets.Flowers102's
            "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        home="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ),
)
