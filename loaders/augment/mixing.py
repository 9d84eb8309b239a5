"""Mixup and cutmix on a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loaders import draws as sample_draws
from loaders.augment.boxes import inside_of
from loaders.augment.checks import check_mix, check_normalised, is_whole
from loaders.augment.upload import upload
from loaders.draws import CUTMIX, MIXUP, Ints, MixDraws
from loaders.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), chosen for every sample by itself or for a batch.

    A sample's partner stands in its own group of `group` consecutive positions of the global batch, so that the pairs
    do not depend on how the batch is split over ranks.

    Attributes:
        mixup_alpha: of mixup's symmetric Beta distribution, at least 0; 0 turns mixup off.
        cutmix_alpha: likewise of cutmix.
        probability: share of the samples that are mixed.
        switch_probability: share of cutmix among them, where both alphas are positive.
        group: positions a group, at least 2; the batch of a rank must be a multiple of it.
        mode: "elem": every sample has its own kind, weight and box; "batch": all samples of a rank's batch have those
            of its first one, so that they depend on the batch, as timm's default does.

    Raises:
        InputError: if a value is out of its range.
    """

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    switch_probability: float = 0.5
    group: int = 8
    mode: str = "elem"

    def __post_init__(self) -> None:
        for name, alpha in (("mixup_alpha", self.mixup_alpha), ("cutmix_alpha", self.cutmix_alpha)):
            if not (alpha >= 0 and math.isfinite(alpha)):
                raise InputError(f"{name} is {alpha}: give a finite number of at least 0; 0 turns it off.")
        if self.mixup_alpha == self.cutmix_alpha == 0:
            raise InputError("mixup_alpha and cutmix_alpha are both 0: make one positive, or leave mixing out.")
        for name, share in (("probability", self.probability), ("switch_probability", self.switch_probability)):
            if not 0 <= share <= 1:
                raise InputError(f"Mixing's {name} is {share}: give a number from 0 to 1.")
        if not is_whole(self.group) or self.group < 2:
            raise InputError(f"Mixing's group is {self.group}: give at least 2, since nobody is mixed with itself.")
        if self.mode not in ("elem", "batch"):
            raise InputError(f"Mixing's mode is {self.mode!r}: give 'elem' or 'batch'.")

    def check_batch_size(self, batch_size: int) -> None:
        """Raises InputError unless a rank's batch falls into whole groups."""
        if batch_size % self.group:
            raise InputError(
                f"--batch_size {batch_size} cannot be taken, since of a rank's batch mixing needs a multiple of "
                f"{self.group}: take {max(batch_size // self.group, 1) * self.group}, or change the mixing group."
            )

    def draw(self, seed: int, epoch: int, ids: Ints, size: int) -> MixDraws:
        """What is mixed with what: a pure function of the seed, the epoch and the ids of each group.

        Args:
            seed: of the run.
            epoch: from 0.
            ids: (B,) sample ids, B a multiple of `group`, beginning at a group's edge of the global batch.
            size: side of the images in pixels.

        Raises:
            InputError: if B is not a multiple of `group`.
        """
        self.check_batch_size(len(ids))
        return sample_draws.mixing(
            seed,
            epoch,
            ids,
            size,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            probability=self.probability,
            switch_probability=self.switch_probability,
            group=self.group,
            by_batch=self.mode == "batch",
        )

    def __call__(self, images: Tensor, draws: MixDraws) -> Tensor:
        """The mixed images: new ones, of the shape, type, memory format and device of `images`.

        Mixup is weight * image + (1 - weight) * partner, in float32 whatever the images' type. Cutmix puts the
        partner's pixels of the box into the image.

        Args:
            images: (B, 3, H, W) floating point, best channels_last.
            draws: of these B samples, at this size.

        Raises:
            InputError: if the images are not as above, or the draws are not of these images.
        """
        check_normalised("Mixing", images)
        check_mix(draws, len(images), *images.shape[2:])
        result = images.clone()
        mixup = np.flatnonzero(draws.kind == MIXUP)
        if len(mixup):
            own, others = upload(mixup, images.device), upload(draws.partner[mixup], images.device)
            weight = upload(draws.weight[mixup], images.device).view(-1, 1, 1, 1)
            # Not torch.lerp, whose last bit depends on how the threads divide a tensor.
            mixed = (images[own].float() * weight).add_(images[others].float() * (1.0 - weight))
            result.index_copy_(0, own, mixed.to(images.dtype))
        cutmix = np.flatnonzero(draws.kind == CUTMIX)
        if len(cutmix):
            own, others = upload(cutmix, images.device), upload(draws.partner[cutmix], images.device)
            inside = inside_of(upload(draws.boxes[cutmix], images.device), *images.shape[2:])
            result.index_copy_(0, own, torch.where(inside, images[others], images[own]))
        return result
