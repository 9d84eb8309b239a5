"""What is random about a sample: crop, flip, RandAugment ops, mixing. Pure functions of (seed, epoch, sample id).

Everything is vectorised over the samples of a batch and drawn with `philox`, so a sample is augmented the same way
whatever the batch, rank, worker or decoder that it falls to. Sizes of images enter only where boxes are computed.
"""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.native.library import library, why_missing
from loaders.philox import Purpose, bits, uniforms

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CROP_TRIES = 10
NO_MIX, MIXUP, CUTMIX = 0, 1, 2
_GAMMA_TRIES = 8
_WORDS = 2 * 4 * _GAMMA_TRIES  # of a Beta number: two Gamma numbers, four words a try
_OTHER = 4 + _WORDS // 2  # where the words of the second of them begin, after the four that choose


class OpDraws(NamedTuple):
    """A policy's choices: `num_ops` operations for every sample, applied in order."""

    ops: Ints  # (B, num_ops): index into the policy's space of operations
    levels: Floats  # (B, num_ops): how strong, in the space's unit: the number of a bin, timm's 0 to 10, or a factor
    signs: Ints  # (B, num_ops): -1 or 1, used by the operations that have a direction


class MixDraws(NamedTuple):
    """How each sample is mixed with another one of its group."""

    kind: Ints  # (B,): NO_MIX, MIXUP or CUTMIX
    partner: Ints  # (B,): position in the batch of the sample that is mixed in
    weight: npt.NDArray[np.float32]  # (B,): share of the sample's own label; for cutmix its share of the pixels
    boxes: Ints  # (B, 4): top, left, bottom, right of what the partner covers, in output pixels; zeros unless cutmix


class EraseDraws(NamedTuple):
    """What is erased of each sample."""

    boxes: Ints  # (B, 4): top, left, bottom, right in pixels; zeros where nothing is
    colours: npt.NDArray[np.float32]  # (B, 3): what the box is set to, in normalised units


def flips(seed: int, epoch: int, ids: Ints, probability: float) -> npt.NDArray[np.bool_]:
    """Which samples are mirrored left to right: (B,) bool."""
    return uniforms(seed, epoch, ids, Purpose.FLIP, 1)[:, 0] < probability


def crop_uniforms(seed: int, epoch: int, ids: Ints) -> Floats:
    """The uniform numbers behind a random resized crop: (B, 10, 4), for area, ratio, top and left of each try."""
    return uniforms(seed, epoch, ids, Purpose.CROP, CROP_TRIES * 4).reshape(len(ids), CROP_TRIES, 4)


def crop_boxes(
    seed: int, epoch: int, ids: Ints, sizes: Ints, scale: tuple[float, float], ratio: tuple[float, float]
) -> Ints:
    """`random_resized_crop` of the samples' own draws.

    The compiled library, where it is there, stops drawing at the try that fits.

    Args:
        ids: (B,).
        sizes: (B, 2) heights and widths of their images, in pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of width / height.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    if why_missing():
        return random_resized_crop(crop_uniforms(seed, epoch, ids), sizes[:, 0], sizes[:, 1], scale, ratio)
    ids, sizes = np.ascontiguousarray(ids, dtype=np.int64), np.ascontiguousarray(sizes, dtype=np.int64)
    boxes = np.empty((len(ids), 4), dtype=np.int64)
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    ranges = [(ctypes.c_double * 2)(*values) for values in (scale, ratio, log_ratio)]
    library().twistnet_crops(
        len(ids), ids.ctypes.data, seed, epoch, Purpose.CROP, CROP_TRIES, sizes.ctypes.data, *ranges, boxes.ctypes.data
    )
    return boxes


def random_resized_crop(
    draws: Floats,
    heights: Ints,
    widths: Ints,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Ints:
    """Boxes distributed as torchvision's `RandomResizedCrop.get_params`: ten tries, then a central crop.

    Args:
        draws: (B, 10, 4) uniforms in (0, 1), from `crop_uniforms`.
        heights: (B,) image heights in pixels.
        widths: (B,) image widths in pixels.
        scale: range of the crop's share of the image's area.
        ratio: range of width / height, log-uniform.

    Returns:
        (B, 4) int64: top, left, height, width, inside the image and not empty.
    """
    image_h, image_w = heights[:, None], widths[:, None]
    area = (image_h * image_w) * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    log_ratio = math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[..., 1]
    aspect = np.exp(log_ratio)
    # np.rint rounds halves to even, as Python's round does in torchvision.
    crop_w: Ints = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    crop_h: Ints = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (crop_w > 0) & (crop_w <= image_w) & (crop_h > 0) & (crop_h <= image_h)
    rows, chosen = np.arange(len(draws)), np.argmax(fits, axis=1)
    crop_h, crop_w = crop_h[rows, chosen], crop_w[rows, chosen]
    top = (draws[rows, chosen, 2] * (heights - crop_h + 1)).astype(np.int64)
    left = (draws[rows, chosen, 3] * (widths - crop_w + 1)).astype(np.int64)
    boxes = np.stack((top, left, crop_h, crop_w), axis=1)
    return np.where(np.any(fits, axis=1)[:, None], boxes, _ratio_limited_centre(heights, widths, ratio))


def _ratio_limited_centre(heights: Ints, widths: Ints, ratio: tuple[float, float]) -> Ints:
    """torchvision's fall-back: the largest central crop whose aspect ratio is in range."""
    image_ratio = widths / heights
    too_narrow, too_wide = image_ratio < ratio[0], image_ratio > ratio[1]
    crop_h = np.where(too_narrow, np.rint(widths / ratio[0]), heights).astype(np.int64)
    crop_w = np.where(too_wide, np.rint(heights * ratio[1]), widths).astype(np.int64)
    crop_h, crop_w = np.maximum(crop_h, 1), np.maximum(crop_w, 1)
    return np.stack(((heights - crop_h) // 2, (widths - crop_w) // 2, crop_h, crop_w), axis=1)


def centre_crop(heights: Ints, widths: Ints, crop_ratio: float) -> Ints:
    """The evaluation box: a central square of `crop_ratio` of the shorter side.

    What torchvision's `Resize(size / crop_ratio)` and `CenterCrop(size)` keep, taken before the resize instead of
    after it, so that no pixel outside the box counts.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    side = np.maximum(np.rint(np.minimum(heights, widths) * crop_ratio).astype(np.int64), 1)
    return np.stack(((heights - side) // 2, (widths - side) // 2, side, side), axis=1)


def operations(seed: int, epoch: int, ids: Ints, num_ops: int, num_choices: int) -> tuple[Ints, Ints]:
    """Operations uniform of `num_choices` with replacement, and signs -1 or 1, even: two (B, num_ops) arrays."""
    words = bits(seed, epoch, ids, Purpose.OPERATION, 2 * num_ops).astype(np.int64)
    # Multiply and shift is Lemire's bounded draw without rejection: its bias is below num_choices / 2**32.
    return (words[:, :num_ops] * num_choices) >> 32, np.where(words[:, num_ops:] & 1, 1, -1)


def strengths(seed: int, epoch: int, ids: Ints, num_ops: int) -> Floats:
    """The uniform numbers behind how strong each operation is: (B, num_ops, 3)."""
    return uniforms(seed, epoch, ids, Purpose.STRENGTH, 3 * num_ops).reshape(len(ids), num_ops, 3)


def erasing(
    seed: int,
    epoch: int,
    ids: Ints,
    size: int,
    *,
    probability: float,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    coloured: bool,
) -> EraseDraws:
    """Boxes distributed as torchvision's `RandomErasing.get_params`: ten tries, then none.

    Args:
        ids: (B,).
        size: side of the images in pixels.
        probability: share of the samples with a box.
        scale: range of the box's share of the image's area.
        ratio: range of height / width, log-uniform.
        coloured: whether the colour is three normal numbers instead of zeros.
    """
    draws = uniforms(seed, epoch, ids, Purpose.ERASE, 1 + CROP_TRIES * 4 + 6)
    tries, normals = draws[:, 1:-6].reshape(len(ids), CROP_TRIES, 4), draws[:, -6:].reshape(len(ids), 3, 2)
    area = size * size * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    aspect = np.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * tries[..., 1])
    heights: Ints = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    widths: Ints = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (heights < size) & (widths < size)
    rows, chosen = np.arange(len(ids)), fits.argmax(axis=1)
    height, width = heights[rows, chosen], widths[rows, chosen]
    top = (tries[rows, chosen, 2] * (size - height + 1)).astype(np.int64)
    left = (tries[rows, chosen, 3] * (size - width + 1)).astype(np.int64)
    erased = (draws[:, 0] < probability) & fits.any(axis=1)
    boxes = np.where(erased[:, None], np.stack((top, left, top + height, left + width), axis=1), 0)
    colours = np.sqrt(-2.0 * np.log(normals[..., 0])) * np.cos(2.0 * math.pi * normals[..., 1])
    return EraseDraws(boxes, (colours * (erased[:, None] & coloured)).astype(np.float32))


def partners(seed: int, epoch: int, ids: Ints, group: int) -> Ints:
    """Whom each sample is mixed with: a random cycle through each group of `group` consecutive positions.

    Args:
        ids: (B,) with B a multiple of `group`; the groups are those of the global batch, so a rank's slice must begin
            at a group's edge.

    Returns:
        (B,) int64 positions in this batch. Nobody is its own partner, and everyone is one other's partner.
    """
    keys = bits(seed, epoch, ids, Purpose.PARTNER, 2)
    # The position breaks ties, so that a sample that stands twice in a padded group has two places in the cycle.
    order = np.argsort(((keys[:, 0] << np.uint64(32)) | keys[:, 1]).reshape(-1, group), axis=1, kind="stable")
    cycle = order + np.arange(0, len(ids), group)[:, None]
    result = np.empty(len(ids), dtype=np.int64)
    result[cycle.ravel()] = np.roll(cycle, -1, axis=1).ravel()
    return result


def mixing(
    seed: int,
    epoch: int,
    ids: Ints,
    size: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    probability: float,
    switch_probability: float,
    group: int,
    by_batch: bool = False,
) -> MixDraws:
    """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019), chosen and weighted for every sample by itself.

    timm's `Mixup(mode="elem")`: with `probability` a sample is mixed; where both alphas are positive, cutmix is chosen
    with `switch_probability`; cutmix's weight is corrected for the part of its box that falls outside the image.

    Args:
        ids: (B,), B a multiple of `group`.
        by_batch: whether all samples have the first one's draws, as with timm's `mode="batch"`; partners are still
            each sample's own.
        size: side of the output images in pixels.
        mixup_alpha: of the symmetric Beta distribution; 0 turns mixup off.
        cutmix_alpha: likewise for cutmix.
    """
    own = ids[:1] if by_batch else ids
    draws = uniforms(seed, epoch, own, Purpose.MIX, 8)
    choice = draws[:, :4]
    first_tries = np.concatenate((draws[:, 4:], uniforms(seed, epoch, own, Purpose.MIX, 4, start=_OTHER)), axis=1)
    cut_share = 0.0 if cutmix_alpha == 0 else 1.0 if mixup_alpha == 0 else switch_probability
    mixed = choice[:, 0] < (probability if mixup_alpha + cutmix_alpha > 0 else 0.0)
    cut = mixed & (choice[:, 1] < cut_share)
    # An alpha of 0 belongs to a kind that no sample has.
    alphas, which = (mixup_alpha or 1.0, cutmix_alpha or 1.0), cut.astype(np.int64)
    weight, settled = symmetric_beta(first_tries, alphas, which)
    # Further tries are drawn only for the few samples that need them: those of all would take most of the time.
    again = np.flatnonzero(mixed & ~settled)
    tries = uniforms(seed, epoch, own[again], Purpose.MIX, 4 + _WORDS)[:, 4:]
    weight[again], _ = symmetric_beta(tries, alphas, which[again])
    boxes = np.zeros((len(own), 4), dtype=np.int64)
    boxes[cut] = _cut_boxes(choice[cut, 2:], weight[cut], size)
    covered = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    weight = np.where(cut, 1.0 - covered / size**2, np.where(mixed, weight, 1.0))
    kind = np.where(cut, CUTMIX, np.where(mixed, MIXUP, NO_MIX))
    if by_batch:
        kind, weight, boxes = (np.repeat(each, len(ids), axis=0) for each in (kind, weight, boxes))
    return MixDraws(kind, partners(seed, epoch, ids, group), weight.astype(np.float32), boxes)


def _cut_boxes(centres: Floats, weight: Floats, size: int) -> Ints:
    """Boxes of area (1 - weight) around uniform centres, clipped to the image: (B, 4) top, left, bottom, right."""
    side = (size * np.sqrt(1.0 - weight)).astype(np.int64)
    centre = (centres * size).astype(np.int64)
    low = np.clip(centre - side[:, None] // 2, 0, size)
    high = np.clip(centre + side[:, None] // 2, 0, size)
    return np.concatenate((low, high), axis=1)


def symmetric_beta(draws: Floats, alphas: tuple[float, ...], which: Ints) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Beta(alpha, alpha) from uniforms, as the share of one of two Gamma(alpha) numbers.

    Args:
        draws: (N, 8 n) uniforms in (0, 1), for n tries, at most eight: those of the first number, then the second's.
        alphas: positive.
        which: (N,) index into them.

    Returns:
        (N,) float64 in [0, 1], and (N,) bool: whether further tries would change nothing.
    """
    tries = draws.reshape(len(draws), 2, draws.shape[1] // 8, 4)
    logs, accepted = _log_gamma_variates(tries, np.array([_gamma(alpha) for alpha in alphas])[which])
    # In logarithms, because a Gamma(0.2) number underflows.
    share = 1.0 / (1.0 + np.exp(np.clip(logs[:, 1] - logs[:, 0], -700.0, 700.0)))
    return share, accepted[:, 0] & accepted[:, 1]


def _gamma(alpha: float) -> tuple[float, float, float, float]:
    """Alpha, and of d = alpha + 2 / 3: d itself, the root of 9 d, the logarithm of d."""
    d = alpha + 1.0 - 1.0 / 3.0
    return alpha, d, math.sqrt(9.0 * d), math.log(d)


def _log_gamma_variates(tries: Floats, gammas: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Logarithms of Gamma(alpha) numbers, by Marsaglia and Tsang (2000) at alpha + 1 and their boost for small alpha.

    A try is accepted with probability above 0.95; after eight failures (1 in 10**10) the median stands in.

    Args:
        tries: (N, 2, n, 4) uniforms in (0, 1).
        gammas: (N, 4): `_gamma` of each sample's alpha.

    Returns:
        (N, 2) float64 of the first try that is accepted, and (N, 2) bool: whether one was.
    """
    alpha, d, root, log_d = gammas.T[:, :, None, None]
    normal = np.sqrt(-2.0 * np.log(tries[..., 0])) * np.cos(2.0 * math.pi * tries[..., 1])
    v = (1.0 + normal / root) ** 3
    log_v = np.log(np.maximum(v, 1e-300))
    accepted = (v > 0) & (np.log(tries[..., 2]) < 0.5 * normal**2 + d - d * v + d * log_v)
    found, chosen = accepted.any(axis=2), accepted.argmax(axis=2).reshape(-1)
    log_v = log_v.reshape(-1, tries.shape[2])[np.arange(len(chosen)), chosen].reshape(found.shape)
    return log_d[..., 0] + np.where(found, log_v, 0.0) + np.log(tries[..., 0, 3]) / alpha[..., 0], found
