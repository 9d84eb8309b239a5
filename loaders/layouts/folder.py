"""A folder of one's own with a folder for every class: `<root>/<class>/**/<image>`, in five folds of 60, 20 and 20 %.

The images of a class are shuffled once and for all (`loaders.layouts.layout.shuffled`) and dealt to five parts; fold k
tests on part k, validates on the next and trains on the other three.
"""

from __future__ import annotations

import re
from pathlib import Path

from loaders.errors import InputError
from loaders.folders import PREPARING, folders, has_image, images_below
from loaders.layouts import cub, dtd, flowers, fmd, kth
from loaders.layouts.layout import Image, Layout, Listing, deal, make_listing, rotate, shuffled

_FOLDS = 5
_OTHERS = (dtd.LAYOUT, fmd.LAYOUT, kth.LAYOUT, cub.LAYOUT, flowers.LAYOUT)
# train, val2017, testA: folders of splits, whose images have no class, or have it one folder deeper.
_SPLIT = re.compile(
    r"(train(ing|val)?|val(id|idation)?|test(ing)?|dev|eval(uation)?)([-_ ]?(set|[a-c]|\d+))?", re.IGNORECASE
)
# What data sets of other layouts call the one folder of all their images.
_ALL = re.compile(r"(jpeg)?images?|imgs?|jpe?gs?|pngs?", re.IGNORECASE)


def recognise(path: Path) -> str | None:
    """Two folders with images and more, and no sign of anything else.

    Nearly all is a folder of folders with images, so what may be another data set is left to be named by people: loose
    images beside the folders; folders named as splits are ("train" alone, with loose images, may be of trains) or as
    the folder of all images is; folders that are data sets themselves; and folders that have the same folders in them,
    of which either may be the classes.
    """
    names = folders(path)
    filled = [name for name in names if has_image(path / name, below=True)]
    if len(filled) < 2 or has_image(path) or any(_ALL.fullmatch(name) for name in names):
        return None
    splits = [name for name in names if _SPLIT.fullmatch(name)]
    if splits and not (splits == ["train"] and len(filled) > 2 and has_image(path / "train")):
        return None
    if any(_is_a_set(path / name) for name in filled) or _are_alike([path / name for name in filled]):
        return None
    named = ", ".join(filled[:3])
    return f"it has {len(filled):,} class folders, as {named}, and nothing of another form"


def read(path: Path) -> Listing:
    """Lists the images below every folder, and splits them.

    Raises:
        InputError: where images lie beside the folders, or a class has too few for five folds.
    """
    if (path / PREPARING).exists():
        raise InputError(f"{path} is not whole: start twistnet convert prepare again, which goes on where it ended.")
    if has_image(path):
        raise InputError(f"{path} holds images beside its class folders: sort them into those, or remove them.")
    classes = folders(path)
    by_class = [images_below(path, name) for name in classes]
    for name, files in zip(classes, by_class, strict=True):
        if len(files) < _FOLDS:
            raise InputError(
                f"class folder {path / name} holds {len(files)} images, fewer than the {_FOLDS} that {_FOLDS} folds "
                "need: add some, or remove it."
            )
    found = [Image(label, file.partition("/")[2], file) for label, files in enumerate(by_class) for file in files]
    splits = rotate(deal(shuffled(files) for files in by_class))
    return make_listing(path, classes, found, splits, "sort its images anew")


def _is_a_set(path: Path) -> bool:
    """Whether it is laid out as a data set; of folders with images of their own, as most are, this costs nothing."""
    if has_image(path):
        return False
    return any(layout.recognise(path) for layout in _OTHERS) or any(
        _SPLIT.fullmatch(name) and has_image(path / name, below=True) for name in folders(path)
    )


def _are_alike(paths: list[Path]) -> bool:
    """Whether no folder has images of its own and all share the names of two folders and more, as domains do."""
    if any(has_image(path) for path in paths):
        return False
    return len(set.intersection(*(set(folders(path)) for path in paths))) > 1


LAYOUT = Layout(name="folder", title="a folder of class folders", folds=_FOLDS, recognise=recognise, read=read)
