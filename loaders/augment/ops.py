"""The 14 operations of RandAugment (Cubuk et al. 2020) with the magnitudes and conventions of torchvision's v2.

Every operation takes (N, H, W, 3) uint8 images, all changed with one magnitude, and returns new ones of the same shape
and type; `identity` and a `posterize` that keeps all bits return their argument. They run on any device without
synchronising it, and a pixel depends neither on its place in the batch nor on the number of threads.

Results are those of `torchvision.transforms.v2.functional` on uint8 tensors. Only in `color`, `contrast` and
`sharpness` may a few values in a million be one level away: torchvision adds with `alpha`, which rounds once where the
addition is vectorised and twice near the ends of a tensor and of a thread's share of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# ITU-R 601 luma, to the digits that torchvision uses.
_LUMA = (0.2989, 0.587, 0.114)


def identity(images: Tensor) -> Tensor:
    """The images as they are."""
    return images


def shear_x(images: Tensor, slope: float) -> Tensor:
    """Moves each row left by `slope` times its distance from the top edge: torchvision's shear about the corner.

    Nearest pixel, black where nothing is left. `slope` is the tangent of the angle, not the angle.
    """
    return _warp(images, _WARPS["ShearX"](slope, *images.shape[1:3]))


def shear_y(images: Tensor, slope: float) -> Tensor:
    """Moves each column up by `slope` times its distance from the left edge: otherwise as `shear_x`."""
    return _warp(images, _WARPS["ShearY"](slope, *images.shape[1:3]))


def translate_x(images: Tensor, pixels: float) -> Tensor:
    """Moves the images right by whole pixels, black behind; fractions are cut off, as in torchvision.

    Args:
        images: (N, H, W, 3) uint8.
        pixels: less than W either way.
    """
    return _shift(images, int(pixels), dim=2)


def translate_y(images: Tensor, pixels: float) -> Tensor:
    """Moves the images down by whole pixels, less than H either way: otherwise as `translate_x`."""
    return _shift(images, int(pixels), dim=1)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Turns the images counter-clockwise about their centre: nearest pixel, black corners, torchvision's `rotate`."""
    return _warp(images, _WARPS["Rotate"](degrees, *images.shape[1:3]))


def brightness(images: Tensor, change: float) -> Tensor:
    """Multiplies every value by 1 + `change`; fractions are cut off, as in torchvision's `adjust_brightness`.

    Args:
        images: (N, H, W, 3) uint8.
        change: -1 to 1, as in the other enhancements; 0 leaves the images as they are.
    """
    return _to_uint8(images.mul(1.0 + change))


def color(images: Tensor, change: float) -> Tensor:
    """Moves the images from (-1: to) their luma by 1 + `change`, as torchvision's `adjust_saturation`."""
    factor = 1.0 + change
    blend = images.mul(factor)
    # Where a channel equals the luma, the last bit decides whether a level is lost. So this rounds the product and the
    # sum at once, as the fused multiply-add of torchvision does: in float64 the product is exact.
    shift = _luma(images).to(torch.float64).mul_(float(np.float32(1.0 - factor)))
    # A channel at a time, because broadcasting over the three channels of a pixel is slow on a CPU.
    for channel in blend.unbind(-1):
        channel.add_(shift)
    return _to_uint8(blend)


def contrast(images: Tensor, change: float) -> Tensor:
    """Moves the images from (-1: to) the mean of their luma by 1 + `change`, as torchvision's `adjust_contrast`."""
    factor = 1.0 + change
    # The sum is exact, so that the result does not depend on how a device orders it.
    total = _luma(images).sum(dim=(1, 2), dtype=torch.float64)
    mean = (total / (images.shape[1] * images.shape[2])).float().view(-1, 1, 1, 1)
    return _to_uint8(images.mul(factor).add_(mean.mul_(1.0 - factor)))


def sharpness(images: Tensor, change: float) -> Tensor:
    """Moves the images from (-1: to) a smoothed copy by 1 + `change`, as torchvision's `adjust_sharpness`.

    The smoothing weighs the centre 5 and its eight neighbours 1, in thirteenths. Edge pixels, and images of less than
    three pixels a side, stay as they are.
    """
    count, height, width, _ = images.shape
    if height <= 2 or width <= 2:
        return images.clone()
    # The three channels lie side by side, so the horizontal neighbours of a value are three places away.
    values = images.reshape(count, height, width * 3)
    small = values.to(torch.int16)
    columns = small[:, :-2] + small[:, 1:-1] + small[:, 2:]
    total = columns[..., :-6] + columns[..., 3:-3] + columns[..., 6:]
    total += 4 * small[:, 1:-1, 3:-3]
    # A thirteenth is never half-way between two integers, so the rounding is safe from the float's last bit.
    smooth = total.float().div_(13.0).round_()
    result = values.float()
    inner = result[:, 1:-1, 3:-3]
    inner.add_(smooth.sub_(inner).mul_(-change))
    return _to_uint8(result).view(images.shape)


def posterize(images: Tensor, bits: float) -> Tensor:
    """Keeps the `bits` highest bits (0 to 8) of every value."""
    dropped = 8 - int(bits)
    return images & ((0xFF >> dropped) << dropped) if dropped else images


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Inverts the values from `threshold` on, given as a share of 255."""
    # Exclusive-or with 255 inverts; torch.where is slow on uint8.
    return images ^ (images >= 255.0 * threshold).to(torch.uint8).mul_(255)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretches every channel of every image to 0 .. 255; a constant channel stays as it is.

    As torchvision's `autocontrast`, which divides by the range over 255 and cuts off fractions, so that the brightest
    value may become 254.
    """
    count, height, width, _ = images.shape
    values = images.reshape(count, height, width * 3)
    low = values.amin(dim=1).view(count, width, 3).amin(dim=1).float()
    high = values.amax(dim=1).view(count, width, 3).amax(dim=1).float()
    constant = high == low
    scale = torch.where(constant, 1.0, (high - low) * (1.0 / 255.0))
    low = torch.where(constant, 0.0, low)
    stretched = values.float().sub_(low.repeat(1, width)[:, None]).div_(scale.repeat(1, width)[:, None])
    return _to_uint8(stretched).view(images.shape)


def equalize(images: Tensor) -> Tensor:
    """Flattens the histogram of every channel of every image, by Pillow's integer rule, which torchvision follows.

    A channel where fewer than 255 pixels lie below its brightest level stays as it is.
    """
    count, height, width, _ = images.shape
    offsets = torch.arange(0, 768, 256, device=images.device).repeat(height * width)
    # Where each value stands in its image's three tables of 256 levels.
    entries = images.reshape(count, -1).long() + offsets
    one = torch.ones(1, dtype=torch.int32, device=images.device)
    histogram = torch.zeros(count, 768, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(1, entries, one.expand_as(entries))
    histogram = histogram.view(count, 3, 256)
    up_to = histogram.cumsum(dim=-1)
    below = up_to - histogram
    step = up_to.masked_fill(up_to == height * width, 0).amax(dim=-1, keepdim=True) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device)).to(torch.uint8)
    return table.view(count, 768).gather(1, entries).view(images.shape)


def _to_uint8(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """(N, H, W) float32 whole numbers: torchvision cuts the luma's fractions off before it blends."""
    red, green, blue = images.unbind(-1)
    return red.mul(_LUMA[0]).add_(green.mul(_LUMA[1])).add_(blue.mul(_LUMA[2])).floor_()


def _shift(images: Tensor, pixels: int, dim: int) -> Tensor:
    result = torch.zeros_like(images)
    kept = images.shape[dim] - abs(pixels)
    result.narrow(dim, max(pixels, 0), kept).copy_(images.narrow(dim, max(-pixels, 0), kept))
    return result


_Row = tuple[float, float, float]


def _rotation(degrees: float, _height: int, _width: int) -> tuple[_Row, _Row]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos, -sin, 0.0), (sin, cos, 0.0)


# By a magnitude, an image's height and its width: two rows that, times (x, y, 1), give a pixel's source.
_WARPS: dict[str, Callable[[float, int, int], tuple[_Row, _Row]]] = {
    "ShearX": lambda slope, height, _: ((1.0, slope, slope * (height / 2)), (0.0, 1.0, 0.0)),
    "ShearY": lambda slope, _, width: ((1.0, 0.0, 0.0), (slope, 1.0, slope * (width / 2))),
    "Rotate": _rotation,
}


def coefficients(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    """The two rows of a shear or rotation as the arithmetic of `_nearest` takes them: six float32 numbers."""
    row_x, row_y = _WARPS[name](magnitude, height, width)
    return (*_over_half(row_x, width).tolist(), *_over_half(row_y, height).tolist())


def _over_half(row: _Row, size: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.array(row, dtype=np.float32) / np.float32(size / 2))


def _warp(images: Tensor, rows: tuple[_Row, _Row]) -> Tensor:
    """Images whose pixel (x, y) is the source's nearest to the rows times (x, y, 1); 0 is the image's centre."""
    count, height, width, _ = images.shape
    sources, inside = _source_map(*rows, height, width, images.device)
    return images.reshape(count, -1).gather(1, sources.expand(count, -1)).mul_(inside).view(images.shape)


# A magnitude needs six maps: two shears and a rotation, either way. At 224 pixels a map takes 1.4 MB.
@lru_cache(maxsize=32)
def _source_map(row_x: _Row, row_y: _Row, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each value of a warped image comes from.

    Returns:
        (1, H * W * 3) int64 places in the flattened source (0 where there is none), and (H * W * 3,) uint8: 1 where
        there is one.
    """
    x, x_inside = _nearest(row_x, height, width, width)
    y, y_inside = _nearest(row_y, height, width, height)
    inside = x_inside & y_inside
    pixels = np.where(inside, y * width + x, 0)
    values = pixels[..., None] * 3 + np.arange(3)
    sources = torch.from_numpy(values.reshape(1, -1)).to(device)
    return sources, torch.from_numpy(np.repeat(inside.reshape(-1), 3).astype(np.uint8)).to(device)


def _nearest(row: _Row, height: int, width: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """One source coordinate of every pixel, and whether it lies inside the `size` of that axis: two (H, W) arrays.

    A shear by 0.04 puts whole rows exactly between two pixels, where the last bit of the arithmetic decides. So this
    follows torchvision's float32 path on a CPU, rounding by rounding: coefficients over half the size; one product;
    one fused multiply-add; one addition; then `grid_sample`'s way back from -1 .. 1 to pixels, halves to even.
    """
    x = (np.arange(width) - (width - 1) / 2).astype(np.float32)[None, :]
    y = (np.arange(height) - (height - 1) / 2).astype(np.float32)[:, None]
    by_x, by_y, by_one = _over_half(row, size)
    # In float64 the product is exact, so that this rounds once, as a fused multiply-add does.
    fused = (x * by_x).astype(np.float64) + y.astype(np.float64) * np.float64(by_y)
    share = fused.astype(np.float32) + by_one
    pixel = ((share + np.float32(1)) * np.float32(size) - np.float32(1)) / np.float32(2)
    nearest = np.rint(pixel).astype(np.int64)
    return nearest, (nearest >= 0) & (nearest < size)


class Operation(NamedTuple):
    """An entry of RandAugment's space."""

    name: str  # torchvision's
    apply: Callable[[Tensor, float], Tensor]
    magnitudes: Callable[[int, int, int], Tensor] | None  # of (num_bins, height, width); None: it takes no magnitude
    signed: bool  # whether the magnitude's sign is drawn


def _linear(start: float, end: float) -> Callable[[int, int, int], Tensor]:
    return lambda num_bins, _height, _width: torch.linspace(start, end, num_bins)


# The paper's 150 pixels of AutoAugment's 331-pixel images, scaled to these.
_MAX_SHIFT = 150.0 / 331.0

SPACE: tuple[Operation, ...] = (
    Operation("Identity", lambda images, _: identity(images), None, False),
    Operation("ShearX", shear_x, _linear(0.0, 0.3), True),
    Operation("ShearY", shear_y, _linear(0.0, 0.3), True),
    Operation("TranslateX", translate_x, lambda n, _, width: torch.linspace(0.0, _MAX_SHIFT * width, n), True),
    Operation("TranslateY", translate_y, lambda n, height, _: torch.linspace(0.0, _MAX_SHIFT * height, n), True),
    Operation("Rotate", rotate, _linear(0.0, 30.0), True),
    Operation("Brightness", brightness, _linear(0.0, 0.9), True),
    Operation("Color", color, _linear(0.0, 0.9), True),
    Operation("Contrast", contrast, _linear(0.0, 0.9), True),
    Operation("Sharpness", sharpness, _linear(0.0, 0.9), True),
    Operation("Posterize", posterize, lambda n, _, __: (8 - torch.arange(n) / ((n - 1) / 4)).round(), False),
    Operation("Solarize", solarize, _linear(1.0, 0.0), False),
    Operation("AutoContrast", lambda images, _: auto_contrast(images), None, False),
    Operation("Equalize", lambda images, _: equalize(images), None, False),
)


@lru_cache(maxsize=256)
def magnitude_table(op: int, num_bins: int, height: int, width: int) -> tuple[float, ...]:
    """The magnitude of every bin of `SPACE[op]` for images of one size; zeros where the operation takes none."""
    magnitudes = SPACE[op].magnitudes
    if magnitudes is None:
        return (0.0,) * num_bins
    return tuple(magnitudes(num_bins, height, width).tolist())
