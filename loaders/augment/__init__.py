"""Augmentation of decoded batches, on any device: RandAugment, normalisation, mixup and cutmix.

Plain torch (ops.py, mixing.py) is the definition, and what runs where there is no card. On a card Triton's kernels
(kernels.py) do the same from a table of the batch's draws (table.py), in one read and one write. Random numbers come
from `loaders.draws`; nothing here draws by itself.
"""

from __future__ import annotations

from loaders.augment.mixing import Mix
from loaders.augment.pipeline import IMAGENET_MEAN, IMAGENET_STD, Augment, AugmentDraws
from loaders.augment.randaugment import RandAugment

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augment", "AugmentDraws", "Mix", "RandAugment"]
