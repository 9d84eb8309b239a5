"""Augmentation of decoded batches, on any device: RandAugment, normalisation, mixup and cutmix.

Everything here is plain torch. It is the definition that faster implementations are compared with, and what runs where
there is no accelerator. Random numbers come from `loaders.draws`; nothing here draws by itself.
"""

from __future__ import annotations

from loaders.augment.mixing import Mix
from loaders.augment.pipeline import IMAGENET_MEAN, IMAGENET_STD, Augment, AugmentDraws
from loaders.augment.randaugment import RandAugment

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Augment", "AugmentDraws", "Mix", "RandAugment"]
