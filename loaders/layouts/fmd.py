"""FMD, the Flickr Material Database, as FMD.zip extracts: `image/<class>/*.jpg` beside `mask/`.

L. Sharan, R. Rosenholtz and E. Adelson, Material perception: what can you see in a brief glance?, 2009. It has no
official folds. Here there are five, of 60, 20 and 20 %: the sorted images of a class are dealt to five parts in turn,
because half of their names are <class>_moderate_... (close-ups) and half <class>_object_..., which a cut into five
pieces of neighbours would train on and test on apart.
"""

from __future__ import annotations

from pathlib import Path

from loaders.errors import InputError
from loaders.folders import folders, has_image, images
from loaders.layouts.layout import Facts, Image, Layout, Listing, deal, first_of, make_listing, rotate

_NESTED = ("FMD",)
_FOLDS = 5
CLASSES = frozenset(("fabric", "foliage", "glass", "leather", "metal", "paper", "plastic", "stone", "water", "wood"))


def recognise(path: Path) -> str | None:
    """Class folders in image/, beside mask/ or with FMD's own names."""
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        return None
    beside = " beside mask/" if (root / "mask").is_dir() else ", FMD's"
    return f"image/ has {len(folders(root / 'image')):,} class folders{beside}"


def read(path: Path) -> Listing:
    """Lists all images, and splits them.

    Raises:
        InputError: where a class has too few images for five folds.
    """
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        raise InputError(f"{path} is no FMD folder: extract FMD.zip there, which holds image/<class>/ and mask/.")
    classes = folders(root / "image")
    by_class = [[f"image/{name}/{file}" for file in images(root / "image" / name)] for name in classes]
    for name, files in zip(classes, by_class, strict=True):
        if len(files) < _FOLDS:
            raise InputError(
                f"class folder {root / 'image' / name} holds {len(files)} images, too few for {_FOLDS} folds: "
                "extract FMD.zip again."
            )
    found = [Image(label, file.rpartition("/")[2], file) for label, files in enumerate(by_class) for file in files]
    return make_listing(root, classes, found, rotate(deal(by_class)), "extract FMD.zip again")


def _is_root(path: Path) -> bool:
    classes = folders(path / "image")
    marked = (path / "mask").is_dir() or set(classes) == CLASSES
    return marked and any(has_image(path / "image" / name) for name in classes)


LAYOUT = Layout(
    name="fmd",
    title="FMD",
    folds=_FOLDS,
    recognise=recognise,
    read=read,
    facts=Facts(
        classes=10,
        images=1000,
        per_class=(100, 100),
        splits={"train": 600, "val": 200, "test": 200},
        home="https://people.csail.mit.edu/lavanya/fmd.html",
    ),
)
