"""The augmentation of a batch in Triton: statistics where an operation needs them, tables of values, then one pass.

A pixel of the result is followed back through its sample's operations to a pixel of the input, and its value forward
again. So two warps in a row are two roundings to the nearest pixel, as if the image between them had been made. All
arithmetic is that of `loaders.augment.ops`, rounding by rounding: they must be started with `enable_fp_fusion=False`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from loaders.augment import table
from loaders.draws import CUTMIX, MIXUP, NO_MIX

SHIFT = tl.constexpr(table.SHIFT)
WARP = tl.constexpr(table.WARP)
COLOR = tl.constexpr(table.COLOR)
SHARPNESS = tl.constexpr(table.SHARPNESS)
BRIGHTNESS = tl.constexpr(table.BRIGHTNESS)
POSTERIZE = tl.constexpr(table.POSTERIZE)
SOLARIZE = tl.constexpr(table.SOLARIZE)
CONTRAST = tl.constexpr(table.CONTRAST)
EQUALIZE = tl.constexpr(table.EQUALIZE)
NUM_OPS = tl.constexpr(table.NUM_OPS)
NUM_PARAMETERS = tl.constexpr(table.NUM_PARAMETERS)
IS_MIXUP = tl.constexpr(MIXUP)
IS_CUTMIX = tl.constexpr(CUTMIX)
IS_ALONE = tl.constexpr(NO_MIX)


@triton.jit
def _nearest(x, y, parameters, size):
    """One source coordinate; as `loaders.augment.ops._nearest`."""
    product = (x * tl.load(parameters)).to(tl.float64)  # rounded once, before the sum is
    share = (product + y.to(tl.float64) * tl.load(parameters + 1).to(tl.float64)).to(tl.float32)
    share = share + tl.load(parameters + 2)
    pixel = (((share + 1.0) * size - 1.0) / 2.0).to(tl.float64)
    down = tl.floor(pixel)
    odd = down - 2.0 * tl.floor(down / 2.0)
    up = (pixel - down > 0.5) | ((pixel - down == 0.5) & (odd == 1.0))  # halves to even
    return (down + up.to(tl.float64)).to(tl.int32)


@triton.jit
def _pulled(kind, parameters, column, row, inside, height, width):
    """Where an operation takes a pixel from, and whether there is one."""
    from_column = column
    from_row = row
    if kind == SHIFT:
        from_column = column - tl.load(parameters).to(tl.int32)
        from_row = row - tl.load(parameters + 1).to(tl.int32)
    if kind == WARP:
        x = column.to(tl.float32) - (width - 1).to(tl.float32) / 2.0
        y = row.to(tl.float32) - (height - 1).to(tl.float32) / 2.0
        from_column = _nearest(x, y, parameters, width.to(tl.float32))
        from_row = _nearest(x, y, parameters + 3, height.to(tl.float32))
    there = (from_column >= 0) & (from_column < width) & (from_row >= 0) & (from_row < height)
    return from_column, from_row, inside & there


@triton.jit
def _cut(values):
    """To 0 .. 255, fractions cut off."""
    return tl.minimum(tl.maximum(values, 0.0), 255.0).to(tl.int32)


@triton.jit
def _luma(red, green, blue):
    return tl.floor((red.to(tl.float32) * 0.2989 + green.to(tl.float32) * 0.587) + blue.to(tl.float32) * 0.114)


@triton.jit
def _changed(kind, parameters, tables, red, green, blue):
    """A pixel after an operation that looks at nothing but it."""
    if kind >= BRIGHTNESS:
        red = tl.load(tables + red).to(tl.int32)
        green = tl.load(tables + 256 + green).to(tl.int32)
        blue = tl.load(tables + 512 + blue).to(tl.int32)
    if kind == COLOR:
        factor = tl.load(parameters)
        gray = _luma(red, green, blue).to(tl.float64) * tl.load(parameters + 1).to(tl.float64)
        red = _cut(((red.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
        green = _cut(((green.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
        blue = _cut(((blue.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
    return red, green, blue


@triton.jit
def _sharper(value, total, change):
    """A value and the sum of the nine around it, its own five times."""
    smooth = ((2 * total + 13) // 26).to(tl.float32)
    own = value.to(tl.float32)
    return _cut(own + (smooth - own) * change)


@triton.jit
def _read(image, column, row, inside, width):
    at = image + 3 * (row * width + column)
    red = tl.load(at, mask=inside, other=0).to(tl.int32)
    green = tl.load(at + 1, mask=inside, other=0).to(tl.int32)
    blue = tl.load(at + 2, mask=inside, other=0).to(tl.int32)
    return red, green, blue


@triton.jit
def _after_first(image, kinds, parameters, tables, column, row, inside, height, width):
    """A pixel after the first operation; 0 where it is not inside."""
    kind = tl.load(kinds)
    column, row, there = _pulled(kind, parameters, column, row, inside, height, width)
    red, green, blue = _read(image, column, row, there, width)
    if kind == SHARPNESS:
        inner = there & (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
        red_sum, green_sum, blue_sum = 4 * red, 4 * green, 4 * blue
        for place in range(9):
            r, g, b = _read(image, column + place % 3 - 1, row + place // 3 - 1, inner, width)
            red_sum += r
            green_sum += g
            blue_sum += b
        change = tl.load(parameters)
        red = tl.where(inner, _sharper(red, red_sum, change), red)
        green = tl.where(inner, _sharper(green, green_sum, change), green)
        blue = tl.where(inner, _sharper(blue, blue_sum, change), blue)
    red, green, blue = _changed(kind, parameters, tables, red, green, blue)
    return tl.where(inside, red, 0), tl.where(inside, green, 0), tl.where(inside, blue, 0)


@triton.jit
def _after_second(image, kinds, parameters, tables, column, row, inside, height, width):
    """A pixel after both operations."""
    kind = tl.load(kinds + 1)
    own = parameters + NUM_PARAMETERS
    column, row, there = _pulled(kind, own, column, row, inside, height, width)
    red, green, blue = _after_first(image, kinds, parameters, tables, column, row, there, height, width)
    if kind == SHARPNESS:
        inner = there & (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
        red_sum, green_sum, blue_sum = 4 * red, 4 * green, 4 * blue
        for place in range(9):
            r, g, b = _after_first(
                image, kinds, parameters, tables, column + place % 3 - 1, row + place // 3 - 1, inner, height, width
            )
            red_sum += r
            green_sum += g
            blue_sum += b
        change = tl.load(own)
        red = tl.where(inner, _sharper(red, red_sum, change), red)
        green = tl.where(inner, _sharper(green, green_sum, change), green)
        blue = tl.where(inner, _sharper(blue, blue_sum, change), blue)
    return _changed(kind, own, tables + 768, red, green, blue)


@triton.jit
def count(images, kinds, parameters, tables, counts, height, width, slot: tl.constexpr, block: tl.constexpr):
    """How often each value stands in each channel, or for contrast the sum of the luma, of what operation `slot` gets.

    counts: (B, 769) int32, zeros before; the last one is the sum.
    """
    sample = tl.program_id(0)
    kinds += sample * NUM_OPS
    if tl.load(kinds + slot) >= CONTRAST:
        place = tl.program_id(1) * block + tl.arange(0, block)
        inside = place < height * width
        column, row = place % width, place // width
        image = images + sample.to(tl.int64) * height * width * 3
        if slot == 0:
            red, green, blue = _read(image, column, row, inside, width)
        else:
            parameters += sample * NUM_OPS * NUM_PARAMETERS
            tables += sample * NUM_OPS * 768
            red, green, blue = _after_first(image, kinds, parameters, tables, column, row, inside, height, width)
        counts += sample * 769
        if tl.load(kinds + slot) == CONTRAST:
            luma = tl.where(inside, _luma(red, green, blue), 0.0).to(tl.int32)
            tl.atomic_add(counts + 768, tl.sum(luma, axis=0))
        else:
            one = inside.to(tl.int32)
            tl.atomic_add(counts + red, one, mask=inside)
            tl.atomic_add(counts + 256 + green, one, mask=inside)
            tl.atomic_add(counts + 512 + blue, one, mask=inside)


@triton.jit
def tabulate(kinds, parameters, tables, counts, height, width, slot: tl.constexpr):
    """What operation `slot` makes of each of the 256 values in each channel: tables (B, NUM_OPS, 3, 256) uint8."""
    sample = tl.program_id(0)
    kind = tl.load(kinds + sample * NUM_OPS + slot)
    if kind >= BRIGHTNESS:
        parameters += (sample * NUM_OPS + slot) * NUM_PARAMETERS
        counts += sample * 769
        value = tl.arange(0, 256)
        as_float = value.to(tl.float32)
        pixels = height * width
        for channel in tl.static_range(3):
            result = value
            if kind == BRIGHTNESS:
                result = _cut(as_float * tl.load(parameters))
            if kind == POSTERIZE:
                result = value & tl.load(parameters).to(tl.int32)
            if kind == SOLARIZE:
                result = tl.where(as_float >= tl.load(parameters), 255 - value, value)
            if kind == CONTRAST:
                mean = (tl.load(counts + 768).to(tl.float64) / pixels.to(tl.float64)).to(tl.float32)
                result = _cut(as_float * tl.load(parameters) + mean * tl.load(parameters + 1))
            if kind > CONTRAST:
                histogram = tl.load(counts + channel * 256 + value)
                if kind == EQUALIZE:
                    up_to = tl.cumsum(histogram, axis=0)
                    step = tl.max(tl.where(up_to == pixels, 0, up_to), axis=0) // 255
                    spread = tl.minimum((up_to - histogram + step // 2) // tl.maximum(step, 1), 255)
                    result = tl.where(step > 0, spread, value)
                else:
                    low = tl.min(tl.where(histogram > 0, value, 255), axis=0).to(tl.float32)
                    high = tl.max(tl.where(histogram > 0, value, 0), axis=0).to(tl.float32)
                    scale = tl.where(high == low, 1.0, (high - low) * 0.003921568859368563)  # 1 / 255 in float32
                    stretched = tl.div_rn(as_float - tl.where(high == low, 0.0, low), scale)
                    result = _cut(stretched)
            tl.store(tables + ((sample * NUM_OPS + slot) * 3 + channel) * 256 + value, result.to(tl.uint8))


@triton.jit
def _normalised(value, mean, std):
    return tl.div_rn(value.to(tl.float32) - mean, std)


@triton.jit
def apply(
    images,
    out,
    kinds,
    parameters,
    tables,
    mixing,
    weights,
    mean,
    std,
    height,
    width,
    has_ops: tl.constexpr,
    has_mix: tl.constexpr,
    block: tl.constexpr,
):
    """Some pixels of one sample: its operations, normalised, mixed with its partner's.

    images (B, H, W, 3) uint8; out (B, H, W, 3) of any floating type; mean and std (3) float32, of values from 0 to 255.
    """
    sample = tl.program_id(0)
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < height * width
    column, row = place % width, place // width
    red, green, blue = _of_sample(
        images, kinds, parameters, tables, mean, std, sample, column, row, inside, height, width, has_ops
    )
    if has_mix:
        kind = tl.load(mixing + 6 * sample)
        if kind != IS_ALONE:
            partner = tl.load(mixing + 6 * sample + 1)
            weight = tl.load(weights + sample)
            shown = inside
            if kind == IS_CUTMIX:
                top, left = tl.load(mixing + 6 * sample + 2), tl.load(mixing + 6 * sample + 3)
                bottom, right = tl.load(mixing + 6 * sample + 4), tl.load(mixing + 6 * sample + 5)
                shown = inside & (row >= top) & (row < bottom) & (column >= left) & (column < right)
            if tl.max(shown.to(tl.int32), axis=0) > 0:
                r, g, b = _of_sample(
                    images, kinds, parameters, tables, mean, std, partner, column, row, shown, height, width, has_ops
                )
                if kind == IS_MIXUP:
                    r = red * weight + r * (1.0 - weight)
                    g = green * weight + g * (1.0 - weight)
                    b = blue * weight + b * (1.0 - weight)
                red = tl.where(shown, r, red)
                green = tl.where(shown, g, green)
                blue = tl.where(shown, b, blue)
    at = out + sample.to(tl.int64) * height * width * 3 + 3 * place
    tl.store(at, red.to(out.dtype.element_ty), mask=inside)
    tl.store(at + 1, green.to(out.dtype.element_ty), mask=inside)
    tl.store(at + 2, blue.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _of_sample(
    images, kinds, parameters, tables, mean, std, sample, column, row, inside, height, width, has_ops: tl.constexpr
):
    """A pixel of a sample after its operations, normalised."""
    image = images + sample.to(tl.int64) * height * width * 3
    if has_ops:
        kinds += sample * NUM_OPS
        parameters += sample * NUM_OPS * NUM_PARAMETERS
        tables += sample * NUM_OPS * 768
        red, green, blue = _after_second(image, kinds, parameters, tables, column, row, inside, height, width)
    else:
        red, green, blue = _read(image, column, row, inside, width)
    red = _normalised(red, tl.load(mean), tl.load(std))
    green = _normalised(green, tl.load(mean + 1), tl.load(std + 1))
    blue = _normalised(blue, tl.load(mean + 2), tl.load(std + 2))
    return red, green, blue
