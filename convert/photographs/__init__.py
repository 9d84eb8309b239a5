"""Data sets cut from the photographs that scikit-image and scikit-learn install: the demo's, and a miniature of DTD."""

from convert.photographs.demo import MANIFEST, SIDES, SUBJECTS, TEXTURES, DemoSets, make_demo_sets
from convert.photographs.miniature import make_miniature_dtd
from convert.photographs.textures import NUM_FOLDS, SPLITS

__all__ = [
    "MANIFEST",
    "NUM_FOLDS",
    "SIDES",
    "SPLITS",
    "SUBJECTS",
    "TEXTURES",
    "DemoSets",
    "make_demo_sets",
    "make_miniature_dtd",
]
