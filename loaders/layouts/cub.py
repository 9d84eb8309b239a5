"""CUB-200-2011: `images/<class>/*.jpg` and lists that number, label and split them.

C. Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011. Lines: images.txt `<image id> <class>/<file>`,
image_class_labels.txt `<image id> <class id>`, train_test_split.txt `<image id> <1: training, 0: test>`, classes.txt
`<class id> <class>`. There is one fold. It has no official validation images: they are a tenth of each class's
training images, chosen once and for all (`loaders.layouts.layout.shuffled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loaders.errors import InputError
from loaders.folders import folders, images, lines
from loaders.layouts.layout import Facts, Image, Layout, Listing, first_of, inside, make_listing, shuffled

_NESTED = ("CUB_200_2011",)
_IMAGES, _LABELS, _SPLIT, _CLASSES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "classes.txt",
)
_AGAIN = "extract CUB_200_2011.tgz again"
VAL_SHARE = 0.1  # of the training images of each class


def recognise(path: Path) -> str | None:
    """images/ and images.txt with another of CUB's lists."""
    root = first_of(path, _NESTED, _is_root)
    return None if root is None else f"images/ is there, beside {', '.join(_lists(root))}"


def read(path: Path) -> Listing:
    """Lists the images that images.txt names.

    Raises:
        InputError: where a list is missing or no such list, or lists and images do not belong together.
    """
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        raise InputError(f"{path} is no CUB-200-2011 folder: it must hold images/ and {_IMAGES}.")
    names, labels, split, by_id = (_table(root / name) for name in (_IMAGES, _LABELS, _SPLIT, _CLASSES))
    for table, name in ((labels, _LABELS), (split, _SPLIT)):
        odd = sorted(names.keys() ^ table.keys())
        if odd:
            raise InputError(f"image {odd[0]} is only in {root / _IMAGES} or only in {name}: {_AGAIN}.")
    classes = sorted(by_id.values())
    index = {name: label for label, name in enumerate(classes)}
    if len(index) < len(classes):
        raise InputError(f"{root / _CLASSES} names a class twice: {_AGAIN}.")
    there = {f"{folder}/{file}" for folder in folders(root / "images") for file in images(root / "images" / folder)}
    found: list[Image] = []
    training: dict[int, list[str]] = {}
    test: list[str] = []
    for number, name in names.items():
        file = f"images/{inside(name, root / _IMAGES, _AGAIN)}"
        folder, _, rest = name.partition("/")
        if by_id.get(labels[number]) != folder:
            raise InputError(
                f"{root / _LABELS} gives image {number}, {name}, class {labels[number]!r}, which in {_CLASSES} is not "
                f"its folder: {_AGAIN}."
            )
        if split[number] not in ("0", "1"):
            raise InputError(f"{root / _SPLIT} has {split[number]!r} for image {number}, no 0 or 1: {_AGAIN}.")
        if name not in there:
            raise InputError(f"{root / _IMAGES} names {name}, which is not in {root / 'images'}: {_AGAIN}.")
        found.append(Image(index[folder], rest, file))
        if split[number] == "1":
            training.setdefault(index[folder], []).append(file)
        else:
            test.append(file)
    val = {file for files in training.values() for file in shuffled(files)[: round(len(files) * VAL_SHARE)]}
    train = [file for files in training.values() for file in files if file not in val]
    splits = {"train1": train, "val1": sorted(val), "test1": test}
    return make_listing(root, classes, found, splits, _AGAIN)


def _table(path: Path) -> Mapping[str, str]:
    """The first word of every line -> the rest of it."""
    table: dict[str, str] = {}
    for line in lines(path):
        number, space, value = line.partition(" ")
        if not (space and number.isascii() and number.isdigit()) or number in table:
            raise InputError(f"{path} has the line {line!r}, which is no new number and its value: {_AGAIN}.")
        table[number] = value.strip()
    return table


def _lists(root: Path) -> list[str]:
    return [name for name in (_IMAGES, _LABELS, _SPLIT, _CLASSES) if (root / name).is_file()]


def _is_root(path: Path) -> bool:
    # One list may be missing, which reading then says.
    return (path / "images").is_dir() and len(_lists(path)) >= 2


LAYOUT = Layout(
    name="cub",
    title="CUB-200-2011",
    folds=1,
    recognise=recognise,
    read=read,
    facts=Facts(
        classes=200,
        images=11_788,
        per_class=(41, 60),
        splits={"test": 5794},
        home="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ),
)
