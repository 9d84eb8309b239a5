"""RandAugment on a batch: the draws of every sample, and the operations applied to groups of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loaders import draws as sample_draws
from loaders.augment.ops import SPACE, magnitude_table
from loaders.augment.upload import upload
from loaders.draws import Ints, OpDraws
from loaders.errors import InputError

_SIGNED = np.array([operation.signed for operation in SPACE])


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020) as `torchvision.transforms.v2.RandAugment`: nearest pixel, black fill.

    Use::

        augment = RandAugment(num_ops=2, magnitude=9)
        images = augment(images, augment.draw(seed, epoch, ids))

    Attributes:
        num_ops: operations a sample, one after the other, each drawn uniformly of the 14; at least 1.
        magnitude: the bin of all of them, 0 to `num_bins` - 1.
        num_bins: steps from the weakest to the strongest magnitude; at least 2.

    Raises:
        InputError: if a value is out of its range.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31

    def __post_init__(self) -> None:
        if self.num_ops < 1:
            raise InputError(f"RandAugment's num_ops is {self.num_ops}: give at least 1, or leave RandAugment out.")
        if self.num_bins < 2:
            raise InputError(f"RandAugment's num_bins is {self.num_bins}: give at least 2; 31 is usual.")
        if not 0 <= self.magnitude < self.num_bins:
            raise InputError(
                f"RandAugment's magnitude is {self.magnitude}: give 0 to {self.num_bins - 1}, "
                f"since there are {self.num_bins} bins."
            )

    def draw(self, seed: int, epoch: int, ids: Ints) -> OpDraws:
        """What happens to each sample: a pure function of the seed, the epoch and the sample's id.

        Args:
            seed: of the run.
            epoch: from 0.
            ids: (B,) sample ids.
        """
        return sample_draws.randaugment(seed, epoch, ids, self.num_ops, len(SPACE), self.magnitude)

    def __call__(self, images: Tensor, draws: OpDraws) -> Tensor:
        """The augmented images: new ones, of the shape, type and device of `images`.

        Args:
            images: (B, H, W, 3) uint8.
            draws: of these B samples.

        Raises:
            InputError: if the images or the number of draws are not as above.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise InputError(
                f"RandAugment was given {images.dtype} images of shape {tuple(images.shape)}: "
                "give uint8 images of shape (B, H, W, 3), before they are normalised."
            )
        if len(draws.ops) != len(images):
            raise InputError(
                f"RandAugment was given {len(images)} images and draws for {len(draws.ops)}: "
                "draw with the ids of these images."
            )
        for op, magnitude_bin, sign in zip(draws.ops.T, draws.bins.T, draws.signs.T, strict=True):
            images = self._apply(images, op, magnitude_bin, sign)
        return images

    def _apply(self, images: Tensor, ops: Ints, bins: Ints, signs: Ints) -> Tensor:
        """One operation for every sample; those that share operation, bin and sign go through it together."""
        _, height, width, _ = images.shape
        positive = (signs > 0) | ~_SIGNED[ops]
        keys = (ops * self.num_bins + bins) * 2 + positive
        groups, sizes = np.unique(keys, return_counts=True)
        # Sorted on the host, where the draws are, so that the device is asked for nothing; every group then lies in one
        # piece and is handed on without a copy.
        order = np.argsort(keys, kind="stable")
        pieces = []
        in_groups = images.index_select(0, upload(order, images.device))
        for group, members in zip(groups.tolist(), torch.split(in_groups, sizes.tolist()), strict=True):
            op, magnitude_bin = divmod(group // 2, self.num_bins)
            magnitude = magnitude_table(op, self.num_bins, height, width)[magnitude_bin]
            pieces.append(SPACE[op].apply(members, magnitude if group % 2 else -magnitude))
        return torch.cat(pieces).index_select(0, upload(np.argsort(order), images.device))
