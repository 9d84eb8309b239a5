"""The augmentation of a batch in Triton: statistics where an operation needs them, tables of values, then one pass for
every two operations.

A program does some pixels of one sample. All must be started with `enable_fp_fusion=False`, for the roundings of the
plain torch.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from loaders.augment import kinds as of
from loaders.augment.pixel import after, before, cut, luma, read
from loaders.draws import CUTMIX, MIXUP, NO_MIX

BRIGHTNESS = tl.constexpr(of.BRIGHTNESS)
POSTERIZE = tl.constexpr(of.POSTERIZE)
SOLARIZE = tl.constexpr(of.SOLARIZE)
SOLARIZE_ADD = tl.constexpr(of.SOLARIZE_ADD)
CONTRAST = tl.constexpr(of.CONTRAST)
AUTO_CONTRAST = tl.constexpr(of.AUTO_CONTRAST)
EQUALIZE = tl.constexpr(of.EQUALIZE)
NUM_PARAMETERS = tl.constexpr(of.NUM_PARAMETERS)
PAIR = tl.constexpr(2)  # operations of a pass
PARTS = tl.constexpr(8)  # blocks of pixels that a program counts, before it adds to what others have counted
# Triton would make a constant of a side of 1, and compile anew where it divides by 16.
SIDES = ("height", "width")
IS_MIXUP = tl.constexpr(MIXUP)
IS_CUTMIX = tl.constexpr(CUTMIX)
IS_ALONE = tl.constexpr(NO_MIX)


@triton.jit(do_not_specialize=SIDES)
def count(
    images,
    kinds,
    parameters,
    tables,
    fill,
    counts,
    height,
    width,
    slot: tl.constexpr,
    block: tl.constexpr,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """What operation `slot` has to know of the whole image that it gets.

    counts: (B, 769) int32, zeros before: for equalize how often each value stands in each channel; for auto-contrast
    255 less each channel's least value, then its greatest; for contrast, at the end, the sum of the luma.
    """
    sample = tl.program_id(0)
    kind = tl.load(kinds + sample * PAIR + slot)
    if kind >= CONTRAST:
        image = images + sample.to(tl.int64) * height * width * 3
        kinds += sample * PAIR
        parameters += sample * PAIR * NUM_PARAMETERS
        tables += sample * PAIR * 768
        counts += sample * 769
        values = tl.arange(0, 256)
        reds, greens, blues = tl.zeros_like(values), tl.zeros_like(values), tl.zeros_like(values)
        total = 0
        low_red, low_green, low_blue, high_red, high_green, high_blue = 0, 0, 0, 0, 0, 0
        first = tl.program_id(1) * PARTS
        for part in range(first, tl.minimum(first + PARTS, tl.cdiv(height * width, block))):
            place = part * block + tl.arange(0, block)
            inside = place < height * width
            column, row = place % width, place // width
            red, green, blue = before(
                slot, image, kinds, parameters, tables, fill, column, row, inside, height, width, interpolated, blurs
            )
            if kind == CONTRAST:
                total += tl.sum(tl.where(inside, luma(red, green, blue), 0.0).to(tl.int32), axis=0)
            elif kind == EQUALIZE:
                reds += tl.histogram(red, 256, mask=inside)
                greens += tl.histogram(green, 256, mask=inside)
                blues += tl.histogram(blue, 256, mask=inside)
            else:
                low_red = tl.maximum(low_red, tl.max(tl.where(inside, 255 - red, 0), axis=0))
                low_green = tl.maximum(low_green, tl.max(tl.where(inside, 255 - green, 0), axis=0))
                low_blue = tl.maximum(low_blue, tl.max(tl.where(inside, 255 - blue, 0), axis=0))
                high_red = tl.maximum(high_red, tl.max(tl.where(inside, red, 0), axis=0))
                high_green = tl.maximum(high_green, tl.max(tl.where(inside, green, 0), axis=0))
                high_blue = tl.maximum(high_blue, tl.max(tl.where(inside, blue, 0), axis=0))
        if kind == CONTRAST:
            tl.atomic_add(counts + 768, total)
        elif kind == EQUALIZE:
            tl.atomic_add(counts + values, reds, mask=reds > 0)
            tl.atomic_add(counts + 256 + values, greens, mask=greens > 0)
            tl.atomic_add(counts + 512 + values, blues, mask=blues > 0)
        else:
            tl.atomic_max(counts, low_red)
            tl.atomic_max(counts + 1, low_green)
            tl.atomic_max(counts + 2, low_blue)
            tl.atomic_max(counts + 3, high_red)
            tl.atomic_max(counts + 4, high_green)
            tl.atomic_max(counts + 5, high_blue)


@triton.jit(do_not_specialize=SIDES)
def tabulate(kinds, parameters, tables, counts, height, width, slot: tl.constexpr):
    """What operation `slot` makes of each of the 256 values in each channel: tables (B, PAIR, 3, 256) uint8."""
    sample = tl.program_id(0)
    kind = tl.load(kinds + sample * PAIR + slot)
    if kind >= BRIGHTNESS:
        parameters += (sample * PAIR + slot) * NUM_PARAMETERS
        counts += sample * 769
        value = tl.arange(0, 256)
        as_float = value.to(tl.float32)
        pixels = height * width
        for channel in tl.static_range(3):
            result = value
            if kind == BRIGHTNESS:
                result = cut(as_float * tl.load(parameters))
            if kind == POSTERIZE:
                result = value & tl.load(parameters).to(tl.int32)
            if kind == SOLARIZE:
                result = tl.where(as_float >= tl.load(parameters), 255 - value, value)
            if kind == SOLARIZE_ADD:
                result = cut(as_float + tl.where(as_float < tl.load(parameters + 1), tl.load(parameters), 0.0))
            if kind == CONTRAST:
                mean = (tl.load(counts + 768).to(tl.float64) / pixels.to(tl.float64)).to(tl.float32)
                result = cut(as_float * tl.load(parameters) + mean * tl.load(parameters + 1))
            if kind == EQUALIZE:
                histogram = tl.load(counts + channel * 256 + value)
                up_to = tl.cumsum(histogram, axis=0)
                step = tl.max(tl.where(up_to == pixels, 0, up_to), axis=0) // 255
                spread = tl.minimum((up_to - histogram + step // 2) // tl.maximum(step, 1), 255)
                result = tl.where(step > 0, spread, value)
            if kind == AUTO_CONTRAST:
                low = (255 - tl.load(counts + channel)).to(tl.float32)
                high = tl.load(counts + 3 + channel).to(tl.float32)
                scale = tl.where(high == low, 1.0, (high - low) * 0.003921568859368563)  # 1 / 255 in float32
                stretched = tl.div_rn(as_float - tl.where(high == low, 0.0, low), scale)
                result = cut(stretched)
            tl.store(tables + ((sample * PAIR + slot) * 3 + channel) * 256 + value, result.to(tl.uint8))


@triton.jit(do_not_specialize=SIDES)
def operate(
    images,
    out,
    kinds,
    parameters,
    tables,
    fill,
    height,
    width,
    block: tl.constexpr,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """Some pixels of one sample after its two operations.

    images and out: (B, H, W, 3) uint8.
    """
    sample = tl.program_id(0)
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < height * width
    red, green, blue = _of_sample(
        images,
        kinds,
        parameters,
        tables,
        fill,
        sample,
        place % width,
        place // width,
        inside,
        height,
        width,
        True,
        interpolated,
        blurs,
    )
    at = out + sample.to(tl.int64) * height * width * 3 + 3 * place
    tl.store(at, red.to(tl.uint8), mask=inside)
    tl.store(at + 1, green.to(tl.uint8), mask=inside)
    tl.store(at + 2, blue.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=SIDES)
def finish(
    images,
    out,
    kinds,
    parameters,
    tables,
    fill,
    erased,
    colours,
    mixing,
    weights,
    mean,
    std,
    height,
    width,
    has_ops: tl.constexpr,
    has_erase: tl.constexpr,
    has_mix: tl.constexpr,
    block: tl.constexpr,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """Some pixels of one sample: its two operations, normalised, erased, mixed with its partner's.

    images: (B, H, W, 3) uint8; out: (B, H, W, 3) of any floating type; mean, std: (3) float32, of values from 0 to 255.
    """
    sample = tl.program_id(0)
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < height * width
    column, row = place % width, place // width
    r, g, b = _of_sample(
        images,
        kinds,
        parameters,
        tables,
        fill,
        sample,
        column,
        row,
        inside,
        height,
        width,
        has_ops,
        interpolated,
        blurs,
    )
    red, green, blue = _level(r, g, b, mean, std, erased, colours, sample, column, row, has_erase)
    if has_mix:
        kind = tl.load(mixing + 6 * sample)
        if kind != IS_ALONE:
            partner = tl.load(mixing + 6 * sample + 1)
            weight = tl.load(weights + sample)
            shown = inside
            if kind == IS_CUTMIX:
                shown = inside & _in_box(mixing + 6 * sample + 2, column, row)
            if tl.max(shown.to(tl.int32), axis=0) > 0:
                r, g, b = _of_sample(
                    images,
                    kinds,
                    parameters,
                    tables,
                    fill,
                    partner,
                    column,
                    row,
                    shown,
                    height,
                    width,
                    has_ops,
                    interpolated,
                    blurs,
                )
                other_red, other_green, other_blue = _level(
                    r, g, b, mean, std, erased, colours, partner, column, row, has_erase
                )
                if kind == IS_MIXUP:
                    other_red = red * weight + other_red * (1.0 - weight)
                    other_green = green * weight + other_green * (1.0 - weight)
                    other_blue = blue * weight + other_blue * (1.0 - weight)
                red = tl.where(shown, other_red, red)
                green = tl.where(shown, other_green, green)
                blue = tl.where(shown, other_blue, blue)
    at = out + sample.to(tl.int64) * height * width * 3 + 3 * place
    tl.store(at, red.to(out.dtype.element_ty), mask=inside)
    tl.store(at + 1, green.to(out.dtype.element_ty), mask=inside)
    tl.store(at + 2, blue.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _of_sample(
    images,
    kinds,
    parameters,
    tables,
    fill,
    sample,
    column,
    row,
    inside,
    height,
    width,
    has_ops: tl.constexpr,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """A pixel of a sample after its operations."""
    image = images + sample.to(tl.int64) * height * width * 3
    if has_ops:
        kinds += sample * PAIR
        parameters += sample * PAIR * NUM_PARAMETERS
        tables += sample * PAIR * 768
        red, green, blue = after(
            1, image, kinds, parameters, tables, fill, column, row, inside, height, width, interpolated, blurs
        )
    else:
        red, green, blue = read(image, column, row, inside, width)
    return red, green, blue


@triton.jit
def _in_box(box, column, row):
    """Whether a pixel lies in a box of top, left, bottom and right."""
    top, left, bottom, right = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


@triton.jit
def _level(red, green, blue, mean, std, erased, colours, sample, column, row, has_erase: tl.constexpr):
    """A pixel normalised; or what its sample's erased box is set to."""
    red = tl.div_rn(red.to(tl.float32) - tl.load(mean), tl.load(std))
    green = tl.div_rn(green.to(tl.float32) - tl.load(mean + 1), tl.load(std + 1))
    blue = tl.div_rn(blue.to(tl.float32) - tl.load(mean + 2), tl.load(std + 2))
    if has_erase:
        hidden = _in_box(erased + 4 * sample, column, row)
        red = tl.where(hidden, tl.load(colours + 3 * sample), red)
        green = tl.where(hidden, tl.load(colours + 3 * sample + 1), green)
        blue = tl.where(hidden, tl.load(colours + 3 * sample + 2), blue)
    return red, green, blue
