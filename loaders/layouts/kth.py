"""KTH-TIPS2-b: `<class>/sample_{a,b,c,d}/*.png`, four physical samples of each of 11 materials.

P. Mallikarjuna et al., The KTH-TIPS2 database, 2006. The 108 images of a sample show one piece of material, so a split
that mixes samples tests on what it was trained on: fold k tests on sample k of every class, validates on the next and
trains on the other two.
"""

from __future__ import annotations

from pathlib import Path

from loaders.errors import InputError
from loaders.folders import folders, has_image, images
from loaders.layouts.layout import Facts, Image, Layout, Listing, first_of, make_listing, rotate

_NESTED = ("KTH-TIPS2-b",)
SAMPLES = ("sample_a", "sample_b", "sample_c", "sample_d")
_AGAIN = "extract KTH-TIPS2-b again"


def recognise(path: Path) -> str | None:
    """Class folders with images in sample_a/ to sample_d/."""
    root = first_of(path, _NESTED, _is_root)
    return (
        None
        if root is None
        else f"{len(_classes(root)):,} class folders have folders of physical samples, as {SAMPLES[0]}/"
    )


def read(path: Path) -> Listing:
    """Lists all images, and splits them by physical sample.

    Raises:
        InputError: where a class lacks a sample.
    """
    root = first_of(path, _NESTED, _is_root)
    if root is None:
        raise InputError(f"{path} is no KTH-TIPS2-b folder: it must hold <class>/{SAMPLES[0]}/ to {SAMPLES[-1]}/.")
    classes = folders(root)
    found: list[Image] = []
    parts: list[list[str]] = [[] for _ in SAMPLES]
    for label, name in enumerate(classes):
        strange = set(folders(root / name)) - set(SAMPLES)
        if strange or has_image(root / name):
            what = f"folder {min(strange)}" if strange else "images of no sample"
            raise InputError(f"{root / name} holds {what}, where {', '.join(SAMPLES)} are due: {_AGAIN}.")
        for part, sample in zip(parts, SAMPLES, strict=True):
            files = images(root / name / sample)
            if not files:
                raise InputError(f"{root / name / sample} holds no images, so a fold would lack its class: {_AGAIN}.")
            part += [f"{name}/{sample}/{file}" for file in files]
            found += [Image(label, f"{sample}/{file}", f"{name}/{sample}/{file}") for file in files]
    return make_listing(root, classes, found, rotate(parts), _AGAIN)


def _classes(root: Path) -> list[str]:
    """The class folders with two samples or more: where one is missing, reading says so, and no other layout mixes."""
    return [name for name in folders(root) if sum((root / name / sample).is_dir() for sample in SAMPLES) > 1]


def _is_root(path: Path) -> bool:
    classes = _classes(path)
    return bool(classes) and has_image(path / classes[0], below=True)


LAYOUT = Layout(
    name="kth",
    title="KTH-TIPS2-b",
    folds=len(SAMPLES),
    recognise=recognise,
    read=read,
    facts=Facts(
        classes=11,
        images=4752,
        per_class=(432, 432),
        splits={"train": 2376, "val": 1188, "test": 1188},
        home="https://www.csc.kth.se/cvap/databases/kth-tips/",
    ),
)
