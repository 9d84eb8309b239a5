"""Augmentation of decoded batches, on any device: policies such as RandAugment, normalising, erasing, mixup, cutmix.

A policy draws operations for every sample (randaugment.py, jitter.py), which become a table of kinds and parameters
(spaces.py, table.py). Plain torch (ops.py, mixing.py) is the definition of what they do. On a card Triton's kernels
(kernels.py) do the same in one read and one write, and in the CPU's memory the compiled library does (on_cpu.py).
Random numbers come from `loaders.draws`; nothing here draws by itself.
"""

from __future__ import annotations

from loaders.augment.erasing import Erase
from loaders.augment.jitter import ColorJitter, ThreeAugment
from loaders.augment.mixing import Mix
from loaders.augment.naming import policy_named
from loaders.augment.pipeline import IMAGENET_MEAN, IMAGENET_STD, Augment, AugmentDraws
from loaders.augment.policy import Policy
from loaders.augment.randaugment import RandAugment, TimmRandAugment, TrivialAugment

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augment",
    "AugmentDraws",
    "ColorJitter",
    "Erase",
    "Mix",
    "Policy",
    "RandAugment",
    "ThreeAugment",
    "TimmRandAugment",
    "TrivialAugment",
    "policy_named",
]
