"""What augmentation is given, checked before compiled code and kernels go where the numbers say."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from loaders.draws import CUTMIX, EraseDraws, MixDraws, OpDraws
from loaders.errors import InputError

_WHOLE, _NUMBERS = "iu", "iuf"  # kinds of dtypes
_TOLERANCE = 1e-6  # of a weight in float32


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number by its type: 9 is, 9.0 and True are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_normalised(what: str, images: Tensor) -> None:
    """Raises InputError unless these are (B, 3, H, W) floating point."""
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"{what} was given {images.dtype} images of shape {tuple(images.shape)}: "
            "give normalised floating-point images of shape (B, 3, H, W)."
        )


def check_count(what: str, images: int, draws: int) -> None:
    """Raises InputError unless there are draws for as many samples as there are images."""
    if draws != images:
        raise InputError(f"{what} was given {images} images and draws for {draws}: draw with the ids of these images.")


def check_ops(draws: OpDraws, num_choices: int, num_bins: int | None) -> None:
    """Whether a policy can have drawn this.

    Args:
        draws: of any number of samples.
        num_choices: operations of the policy's space.
        num_bins: where all levels are whole numbers below it.

    Raises:
        InputError: where an array has another shape or type than the draws of a policy, or a number is out of range.
    """
    shape = np.shape(draws.ops)
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"The draws' ops have the shape {shape}: give (samples, operations of each).")
    _check_array("The draws' ops", draws.ops, shape, _WHOLE)
    _check_array("The draws' levels", draws.levels, shape, _NUMBERS)
    _check_array("The draws' signs", draws.signs, shape, _NUMBERS)
    _check_range("The draws' ops", draws.ops, num_choices - 1, "the operations of the policy's space")
    if num_bins is None:
        _check_each("The draws' levels", draws.levels, np.isfinite(draws.levels), "finite numbers")
    else:
        _check_range("The draws' levels", draws.levels, num_bins - 1, "the policy's bins")
        _check_each("The draws' levels", draws.levels, np.floor(draws.levels) == draws.levels, "whole bins")
    _check_each("The draws' signs", draws.signs, np.abs(draws.signs) == 1, "-1 or 1")


def check_mix(draws: MixDraws, count: int, height: int, width: int) -> None:
    """Whether this can have been drawn for a batch.

    Args:
        draws: of the batch's samples.
        count: images of the batch.
        height: of the images in pixels.
        width: likewise.

    Raises:
        InputError: where the draws are of another number of samples, of a part of another batch or of images of another
            size, or an array has another shape or type than those of `Mix.draw`.
    """
    check_count("Mixing", count, len(draws.kind))
    _check_array("Mixing's kinds", draws.kind, (count,), _WHOLE)
    _check_array("Mixing's partners", draws.partner, (count,), _WHOLE)
    _check_array("Mixing's weights", draws.weight, (count,), _NUMBERS)
    _check_boxes("Mixing", draws.boxes, count, height, width)
    _check_range("Mixing's kinds", draws.kind, CUTMIX, "none, mixup and cutmix")
    _check_range("Mixing's weights", draws.weight, 1, "shares of a sample's own label")
    if count and (draws.partner.min() < 0 or draws.partner.max() >= count):
        raise InputError(
            f"Mixing was given {count} images and partners at {draws.partner.min()} to {draws.partner.max()}: draw "
            "with the ids of these images, since partners are positions in their own batch."
        )
    # Of a smaller size boxes lie inside too, but then the labels' weights are wrong.
    top, left, bottom, right = draws.boxes.astype(np.int64).T
    covered = (bottom - top) * (right - left)
    kept = 1.0 - covered / (height * width)
    wrong = np.flatnonzero((draws.kind == CUTMIX) & (np.abs(kept - draws.weight) > _TOLERANCE))
    if len(wrong):
        raise InputError(
            f"Mixing was given a cutmix weight of {draws.weight[wrong[0]]:.6f} whose box leaves "
            f"{kept[wrong[0]]:.6f} of {height}x{width} images: draw with the size of these images."
        )


def check_erase(draws: EraseDraws, count: int, height: int, width: int) -> None:
    """As `check_mix`, for the draws of `Erase`."""
    check_count("Erasing", count, len(draws.boxes))
    _check_boxes("Erasing", draws.boxes, count, height, width)
    _check_array("Erasing's colours", draws.colours, (count, 3), _NUMBERS)


def _check_boxes(what: str, boxes: npt.NDArray[Any], count: int, height: int, width: int) -> None:
    _check_array(f"{what}'s boxes", boxes, (count, 4), _WHOLE)
    if count and (boxes.min() < 0 or boxes[:, 2].max() > height or boxes[:, 3].max() > width):
        raise InputError(
            f"{what} was given {height}x{width} images and boxes down to row {boxes[:, 2].max()} and column "
            f"{boxes[:, 3].max()}: draw with the size of these images."
        )
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise InputError(f"{what} was given boxes that end before they begin: give top, left, bottom and right.")


def _check_array(what: str, array: npt.NDArray[Any], shape: tuple[int, ...], kinds: str) -> None:
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype.kind not in kinds:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        numbers = "whole numbers" if kinds == _WHOLE else "numbers"
        raise InputError(f"{what} are {found}: give a NumPy array of {numbers} of shape {shape}.")


def _check_range(what: str, array: npt.NDArray[Any], most: int, which: str) -> None:
    if array.size and not (array.min() >= 0 and array.max() <= most):  # which no NaN is
        raise InputError(f"{what} go from {array.min()} to {array.max()}: give 0 to {most}, {which}.")


def _check_each(what: str, array: npt.NDArray[Any], fine: npt.NDArray[np.bool_], which: str) -> None:
    if not fine.all():
        raise InputError(f"{what} hold {array[~fine][0]}: give {which}, as the policy's own draws have.")
