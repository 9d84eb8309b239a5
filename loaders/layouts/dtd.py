"""DTD: `images/<class>/*.jpg`, and `labels/{train,val,test}{1..10}.txt`, ten ways to split the same images.

M. Cimpoi et al., Describing Textures in the Wild, CVPR 2014. Release 1.0.1 has a stray `images/waffled/.directory`.
"""

from __future__ import annotations

from pathlib import Path

from loaders.errors import InputError
from loaders.folders import folders, has_image, images, lines
from loaders.layouts.layout import SPLITS, Facts, Image, Layout, Listing, first_of, make_listing, split_fold

# torchvision's downloader leaves dtd/dtd/images.
_NESTED = ("dtd", "dtd/dtd")
_AGAIN = "fetch DTD again"


def recognise(path: Path) -> str | None:
    """Class folders in images/ and lists in labels/."""
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        return None
    count = f"{len(folders(root / 'images')):,}"
    return f"images/ has {count} class folders and labels/ has {len(_lists(root))} lists of them"


def read(path: Path) -> Listing:
    """Lists all images, and every list of labels/ in its own order.

    Raises:
        InputError: where a list names an image that is not there, one twice, or one of another split of its fold.
    """
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        raise InputError(f"{path} is no DTD folder: it must hold images/<class>/ and labels/train1.txt.")
    classes = folders(root / "images")
    found = [
        Image(label, file, f"images/{name}/{file}")
        for label, name in enumerate(classes)
        for file in images(root / "images" / name)
    ]
    known = set(classes)
    splits: dict[str, list[str]] = {}
    for split in _lists(root):
        listing = root / "labels" / f"{split}.txt"
        names = lines(listing)
        for name in names:
            if name.count("/") != 1 or name.split("/")[0] not in known:
                raise InputError(f"{listing} names {name!r}, which is no <class>/<file> below {root / 'images'}.")
        splits[split] = [f"images/{name}" for name in names]
    return make_listing(root, classes, found, splits, _AGAIN, keep_order=True)


def _is_root(path: Path) -> bool:
    if not (path / "images").is_dir() or not (path / "labels").is_dir():
        return False
    return bool(_lists(path)) and any(has_image(path / "images" / name) for name in folders(path / "images"))


def _lists(root: Path) -> list[str]:
    """Names of the lists, by fold and then in the order train, val, test."""
    found = [
        (fold, SPLITS.index(name), file.stem)
        for file in (root / "labels").glob("*.txt")
        if (parts := split_fold(file.stem))
        for name, fold in [parts]
    ]
    return [stem for _, _, stem in sorted(found)]


LAYOUT = Layout(
    name="dtd",
    title="DTD",
    folds=10,
    recognise=recognise,
    read=read,
    facts=Facts(
        classes=47,
        images=5640,
        per_class=(120, 120),
        splits={"train": 1880, "val": 1880, "test": 1880},
        md5={"dtd-r1.0.1.tar.gz": "fff73e5086ae6bdbea199a49dfb8a4c1"},  # torchvision.datasets.DTD's
        home="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    ),
)
