"""A pixel of an augmented image in Triton: followed back through two operations, and its value forward again.

So two warps in a row are two roundings to the nearest pixel, as if the image between them had been made, and what looks
at neighbours finds each of them so. `interpolated` and `blurs` say whether operations may be of those kinds, which else
are not compiled. All arithmetic is that of `loaders.augment.ops`, rounding by rounding.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from loaders.augment import kinds as of

SHIFT = tl.constexpr(of.SHIFT)
WARP = tl.constexpr(of.WARP)
BILINEAR = tl.constexpr(of.BILINEAR)
COLOR = tl.constexpr(of.COLOR)
SHARPNESS = tl.constexpr(of.SHARPNESS)
BLUR = tl.constexpr(of.BLUR)
BRIGHTNESS = tl.constexpr(of.BRIGHTNESS)
NUM_PARAMETERS = tl.constexpr(of.NUM_PARAMETERS)
RADIUS = tl.constexpr(of.BLUR_RADIUS)


@triton.jit
def _to_even(value):
    """The nearest whole number, halves to the even one: float64 to int32."""
    down = tl.floor(value)
    odd = down - 2.0 * tl.floor(down / 2.0)
    up = (value - down > 0.5) | ((value - down == 0.5) & (odd == 1.0))
    return (down + up.to(tl.float64)).to(tl.int32)


@triton.jit
def _nearest(x, y, parameters, size):
    """One source coordinate; as `loaders.augment.ops._nearest`."""
    product = (x * tl.load(parameters)).to(tl.float64)  # rounded once, before the sum is
    share = (product + y.to(tl.float64) * tl.load(parameters + 1).to(tl.float64)).to(tl.float32)
    share = share + tl.load(parameters + 2)
    return _to_even((((share + 1.0) * size - 1.0) / 2.0).to(tl.float64))


@triton.jit
def _between(x, y, parameters):
    """One source coordinate, a fraction; as `loaders.augment.ops._between`."""
    return (x * tl.load(parameters) + y * tl.load(parameters + 1)) + tl.load(parameters + 2)


@triton.jit
def _corners(parameters, column, row, width, height):
    """The upper left of the four pixels that a pixel lies between, how far from it, and whether it is inside."""
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    u, v = _between(x, y, parameters), _between(x, y, parameters + 3)
    left, top = tl.floor(u - 0.5), tl.floor(v - 0.5)
    by_x, by_y = (u - 0.5) - left, (v - 0.5) - top
    inside = (u >= 0.0) & (u < width.to(tl.float32)) & (v >= 0.0) & (v < height.to(tl.float32))
    return tl.where(inside, left, 0.0).to(tl.int32), tl.where(inside, top, 0.0).to(tl.int32), by_x, by_y, inside


@triton.jit
def _clamped(place, size):
    return tl.minimum(tl.maximum(place, 0), size - 1)


@triton.jit
def _mirrored(place, size):
    """Past an edge the image is mirrored, without the edge itself again."""
    once = tl.abs(place)
    return tl.maximum(tl.minimum(once, 2 * (size - 1) - once), 0)


@triton.jit
def _fourth(tap, value, by_x, by_y, left, first):
    """Takes the four corners one after another: the left one of a row, the upper row's, and at last the result."""
    value = value.to(tl.float32)
    left = tl.where(tap % 2 == 0, value, left)
    across = left + (value - left) * by_x
    first = tl.where(tap == 1, across, first)
    return left, first, cut(first + (across - first) * by_y)


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
def cut(values):
    """To 0 .. 255, fractions cut off."""
    return tl.minimum(tl.maximum(values, 0.0), 255.0).to(tl.int32)


@triton.jit
def luma(red, green, blue):
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
        gray = luma(red, green, blue).to(tl.float64) * tl.load(parameters + 1).to(tl.float64)
        red = cut(((red.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
        green = cut(((green.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
        blue = cut(((blue.to(tl.float32) * factor).to(tl.float64) + gray).to(tl.float32))
    return red, green, blue


@triton.jit
def _sharper(value, total, change):
    """A value and the sum of the nine around it, its own five times."""
    smooth = ((2 * total + 13) // 26).to(tl.float32)
    own = value.to(tl.float32)
    return cut(own + (smooth - own) * change)


@triton.jit
def read(image, column, row, inside, width):
    at = image + 3 * (row * width + column)
    red = tl.load(at, mask=inside, other=0).to(tl.int32)
    green = tl.load(at + 1, mask=inside, other=0).to(tl.int32)
    blue = tl.load(at + 2, mask=inside, other=0).to(tl.int32)
    return red, green, blue


@triton.jit
def before(
    slot: tl.constexpr,
    image,
    kinds,
    parameters,
    tables,
    fill,
    column,
    row,
    inside,
    height,
    width,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """A pixel as operation `slot` finds it."""
    if slot == 0:
        red, green, blue = read(image, column, row, inside, width)
    else:
        red, green, blue = after(
            0, image, kinds, parameters, tables, fill, column, row, inside, height, width, interpolated, blurs
        )
    return red, green, blue


@triton.jit
def after(
    slot: tl.constexpr,
    image,
    kinds,
    parameters,
    tables,
    fill,
    column,
    row,
    inside,
    height,
    width,
    interpolated: tl.constexpr,
    blurs: tl.constexpr,
):
    """A pixel after operation `slot`; 0 where it is not inside."""
    kind = tl.load(kinds + slot)
    own = parameters + slot * NUM_PARAMETERS
    from_column, from_row, there = _pulled(kind, own, column, row, inside, height, width)
    red, green, blue = before(
        slot, image, kinds, parameters, tables, fill, from_column, from_row, there, height, width, interpolated, blurs
    )
    if kind == SHARPNESS:
        inner = there & (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
        red_sum, green_sum, blue_sum = 4 * red, 4 * green, 4 * blue
        for place in range(9):
            r, g, b = before(
                slot,
                image,
                kinds,
                parameters,
                tables,
                fill,
                column + place % 3 - 1,
                row + place // 3 - 1,
                inner,
                height,
                width,
                interpolated,
                blurs,
            )
            red_sum += r
            green_sum += g
            blue_sum += b
        change = tl.load(own)
        red = tl.where(inner, _sharper(red, red_sum, change), red)
        green = tl.where(inner, _sharper(green, green_sum, change), green)
        blue = tl.where(inner, _sharper(blue, blue_sum, change), blue)
    if interpolated:
        if kind == BILINEAR:
            left, top, by_x, by_y, there = _corners(own, column, row, width, height)
            there = there & inside
            red_left, green_left, blue_left = by_x, by_x, by_x  # any numbers: they are set before they are used
            red_first, green_first, blue_first = by_x, by_x, by_x
            for tap in range(4):
                r, g, b = before(
                    slot,
                    image,
                    kinds,
                    parameters,
                    tables,
                    fill,
                    _clamped(left + tap % 2, width),
                    _clamped(top + tap // 2, height),
                    there,
                    height,
                    width,
                    interpolated,
                    blurs,
                )
                red_left, red_first, red = _fourth(tap, r, by_x, by_y, red_left, red_first)
                green_left, green_first, green = _fourth(tap, g, by_x, by_y, green_left, green_first)
                blue_left, blue_first, blue = _fourth(tap, b, by_x, by_y, blue_left, blue_first)
    if blurs:
        if kind == BLUR:
            nothing = column.to(tl.float32) * 0.0
            red_sum, green_sum, blue_sum = nothing, nothing, nothing
            # Columns of each row first, then rows, the taps in order: the plain torch's sums.
            for down in range(2 * RADIUS + 1):
                red_row, green_row, blue_row = nothing, nothing, nothing
                for across in range(2 * RADIUS + 1):
                    r, g, b = before(
                        slot,
                        image,
                        kinds,
                        parameters,
                        tables,
                        fill,
                        _mirrored(column + across - RADIUS, width),
                        _mirrored(row + down - RADIUS, height),
                        inside,
                        height,
                        width,
                        interpolated,
                        blurs,
                    )
                    weight = tl.load(own + tl.abs(across - RADIUS))
                    red_row = red_row + r.to(tl.float32) * weight
                    green_row = green_row + g.to(tl.float32) * weight
                    blue_row = blue_row + b.to(tl.float32) * weight
                weight = tl.load(own + tl.abs(down - RADIUS))
                red_sum = red_sum + red_row * weight
                green_sum = green_sum + green_row * weight
                blue_sum = blue_sum + blue_row * weight
            red, green, blue = _whole(red_sum), _whole(green_sum), _whole(blue_sum)
    if kind == SHIFT or kind == WARP or (interpolated and kind == BILINEAR):
        red = tl.where(there, red, tl.load(fill).to(tl.int32))
        green = tl.where(there, green, tl.load(fill + 1).to(tl.int32))
        blue = tl.where(there, blue, tl.load(fill + 2).to(tl.int32))
    red, green, blue = _changed(kind, own, tables + slot * 768, red, green, blue)
    return tl.where(inside, red, 0), tl.where(inside, green, 0), tl.where(inside, blue, 0)


@triton.jit
def _whole(value):
    """To 0 .. 255, rounded."""
    return tl.minimum(tl.maximum(_to_even(value.to(tl.float64)), 0), 255)
