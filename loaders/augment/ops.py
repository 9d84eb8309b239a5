"""The operations of augmentation in plain torch: the definition, and what runs where nothing faster does.

Every operation takes (N, H, W, 3) uint8 images and the parameters of each, (N, NUM_PARAMETERS) float32 as
`loaders.augment.kinds` says, and returns new images of the same shape and type. They run on any device without
synchronising it, and a pixel depends neither on its place in the batch nor on the number of threads.

Results are those of `torchvision.transforms.v2.functional` on uint8 tensors. Only in `color`, `contrast` and
`sharpness` may a few values in a million be one level away: torchvision adds with `alpha`, which rounds once where the
addition is vectorised and twice near the ends of a tensor and of a thread's share of it. `bilinear` is within a level
of Pillow's `transform`, which computes in float64, and so may find a pixel outside whose source is the very edge.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loaders.augment import kinds

# ITU-R 601 luma, to the digits that torchvision uses.
_LUMA = (0.2989, 0.587, 0.114)


def shift(images: Tensor, parameters: Tensor, fill: Tensor) -> Tensor:
    """Moves the images by whole pixels, right and down; `fill` behind."""
    _, height, width, _ = images.shape
    right, down = (each.long().view(-1, 1, 1) for each in parameters[:, :2].unbind(1))
    columns = torch.arange(width, device=images.device).view(1, 1, -1) - right
    rows = torch.arange(height, device=images.device).view(1, -1, 1) - down
    return _pulled(images, columns, rows, fill)


def warp(images: Tensor, parameters: Tensor, fill: Tensor) -> Tensor:
    """Images whose pixel (x, y) is the source's nearest to two rows of coefficients times (x, y, 1).

    0 is the image's centre, and the coefficients are over half its sides: torchvision's `affine` and `rotate`.
    """
    _, height, width, _ = images.shape
    columns = _nearest(parameters[:, 0:3], height, width, width)
    return _pulled(images, columns, _nearest(parameters[:, 3:6], height, width, height), fill)


def bilinear(images: Tensor, parameters: Tensor, fill: Tensor) -> Tensor:
    """Images whose pixel (x, y) lies between the source's four at two rows of coefficients times (x, y, 1).

    (0, 0) is the image's corner, and a pixel's middle is at a half: Pillow's `transform` with BILINEAR. Edge pixels
    are not blended with `fill`, and fractions are cut off.
    """
    _, height, width, _ = images.shape
    u, v = (_between(parameters[:, start : start + 3], height, width) for start in (0, 3))
    left, top = (u - 0.5).floor(), (v - 0.5).floor()
    by_x, by_y = ((u - 0.5) - left).unsqueeze(-1), ((v - 0.5) - top).unsqueeze(-1)

    def at(column: Tensor, row: Tensor) -> Tensor:
        return _taken(images, column.clamp(0, width - 1).long(), row.clamp(0, height - 1).long()).float()

    above, below = at(left, top), at(left, top + 1)
    above = above + (at(left + 1, top) - above) * by_x
    below = below + (at(left + 1, top + 1) - below) * by_x
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return torch.where(inside.unsqueeze(-1), _to_uint8(above + (below - above) * by_y), fill)


def color(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """The images times a factor and their luma times another: torchvision's `adjust_saturation`."""
    factor, of_gray = (each.view(-1, 1, 1) for each in parameters[:, :2].unbind(1))
    blend = images.mul(factor.unsqueeze(-1))
    # Where a channel equals the luma, the last bit decides whether a level is lost. So this rounds the product and the
    # sum at once, as the fused multiply-add of torchvision does: in float64 the product is exact.
    gray = _luma(images).double().mul_(of_gray.double())
    # A channel at a time, because broadcasting over the three channels of a pixel is slow on a CPU.
    for channel in blend.unbind(-1):
        channel.add_(gray)
    return _to_uint8(blend)


def sharpness(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """Moves the images towards a smoothed copy, or away from it: torchvision's `adjust_sharpness`.

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
    inner.add_(smooth.sub_(inner).mul_(parameters[:, 0].view(-1, 1, 1)))
    return _to_uint8(result).view(images.shape)


def blur(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """A weighted mean of the pixels up to BLUR_RADIUS away, past an edge mirrored: torchvision's `gaussian_blur`."""
    values = images.float()
    for dim in (2, 1):
        size, total = images.shape[dim], torch.zeros_like(values)
        for tap in range(-kinds.BLUR_RADIUS, kinds.BLUR_RADIUS + 1):
            once = (torch.arange(size, device=images.device) + tap).abs()
            mirrored = torch.minimum(once, 2 * (size - 1) - once).clamp(min=0)
            total += values.index_select(dim, mirrored) * parameters[:, abs(tap)].view(-1, 1, 1, 1)
        values = total
    return _to_uint8(values.round_())


def brightness(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """Multiplies every value by a factor; fractions are cut off, as in torchvision's `adjust_brightness`."""
    return _to_uint8(images.mul(parameters[:, 0].view(-1, 1, 1, 1)))


def posterize(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """Keeps the bits of a mask."""
    return images & parameters[:, 0].to(torch.uint8).view(-1, 1, 1, 1)


def solarize(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """Inverts the values from a threshold on."""
    # Exclusive-or with 255 inverts; torch.where is slow on uint8.
    return images ^ (images >= parameters[:, 0].view(-1, 1, 1, 1)).to(torch.uint8).mul_(255)


def solarize_add(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """Adds to the values below a threshold: timm's `solarize_add`."""
    added, threshold = (each.view(-1, 1, 1, 1) for each in parameters[:, :2].unbind(1))
    return _to_uint8(images + (images < threshold) * added)


def contrast(images: Tensor, parameters: Tensor, _fill: Tensor) -> Tensor:
    """The images times a factor and the mean of their luma times another: torchvision's `adjust_contrast`."""
    factor, of_mean = (each.view(-1, 1, 1, 1) for each in parameters[:, :2].unbind(1))
    # The sum is exact, so that the result does not depend on how a device orders it.
    total = _luma(images).sum(dim=(1, 2), dtype=torch.float64)
    mean = (total / (images.shape[1] * images.shape[2])).float().view(-1, 1, 1, 1)
    return _to_uint8(images.mul(factor).add_(mean.mul_(of_mean)))


def auto_contrast(images: Tensor, _parameters: Tensor, _fill: Tensor) -> Tensor:
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


def equalize(images: Tensor, _parameters: Tensor, _fill: Tensor) -> Tensor:
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


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

# By kind. Nothing stands for IDENTITY, which leaves the images as they are.
OPERATIONS: dict[int, Operation] = {
    kinds.SHIFT: shift,
    kinds.WARP: warp,
    kinds.BILINEAR: bilinear,
    kinds.COLOR: color,
    kinds.SHARPNESS: sharpness,
    kinds.BLUR: blur,
    kinds.BRIGHTNESS: brightness,
    kinds.POSTERIZE: posterize,
    kinds.SOLARIZE: solarize,
    kinds.SOLARIZE_ADD: solarize_add,
    kinds.CONTRAST: contrast,
    kinds.AUTO_CONTRAST: auto_contrast,
    kinds.EQUALIZE: equalize,
}


def _to_uint8(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """(N, H, W) float32 whole numbers: torchvision cuts the luma's fractions off before it blends."""
    red, green, blue = images.unbind(-1)
    return red.mul(_LUMA[0]).add_(green.mul(_LUMA[1])).add_(blue.mul(_LUMA[2])).floor_()


def _taken(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """The pixels at places that broadcast to (N, H, W), all of them inside."""
    count, height, width, _ = images.shape
    places = (rows * width + columns).view(count, -1, 1).expand(-1, -1, 3)
    return images.reshape(count, -1, 3).gather(1, places).view(count, height, width, 3)


def _pulled(images: Tensor, columns: Tensor, rows: Tensor, fill: Tensor) -> Tensor:
    """The pixels at places that broadcast to (N, H, W); `fill` where a place is not inside."""
    _, height, width, _ = images.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    taken = _taken(images, columns.clamp(0, width - 1), rows.clamp(0, height - 1))
    return torch.where(inside.unsqueeze(-1), taken, fill)


def _axes(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.arange(width, dtype=torch.float32, device=device).view(1, 1, -1),
        torch.arange(height, dtype=torch.float32, device=device).view(1, -1, 1),
    )


def _nearest(row: Tensor, height: int, width: int, size: int) -> Tensor:
    """One source coordinate of every pixel: (N, H, W) int64.

    A shear by 0.04 puts whole rows exactly between two pixels, where the last bit of the arithmetic decides. So this
    follows torchvision's float32 path on a CPU, rounding by rounding: coefficients over half the size; one product;
    one fused multiply-add; one addition; then `grid_sample`'s way back from -1 .. 1 to pixels, halves to even.
    """
    x, y = _axes(height, width, row.device)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    by_x, by_y, by_one = (each.view(-1, 1, 1) for each in row.unbind(1))
    # In float64 the product is exact, so that this rounds once, as a fused multiply-add does.
    fused = (x * by_x).double() + y.double() * by_y.double()
    share = fused.float() + by_one
    return (((share + 1.0) * size - 1.0) / 2.0).round().long()


def _between(row: Tensor, height: int, width: int) -> Tensor:
    """One source coordinate of every pixel: (N, H, W) float32."""
    x, y = _axes(height, width, row.device)
    by_x, by_y, by_one = (each.view(-1, 1, 1) for each in row.unbind(1))
    return ((x + 0.5) * by_x + (y + 0.5) * by_y) + by_one
