"""What is done with a pixel: the kinds of operations, and the numbers that each takes.

The order counts: from BRIGHTNESS on it is a table of 256 values that does it, from CONTRAST on one of the image's
statistics. `loaders/native/operations.h` and `loaders.augment.kernels` have the same kinds.
"""

from __future__ import annotations

IDENTITY = 0
SHIFT = 1  # columns to the right, rows down: whole pixels
WARP = 2  # two rows of coefficients to the nearest pixel: `loaders.augment.ops.warp`
BILINEAR = 3  # two rows of coefficients between four pixels: `loaders.augment.ops.bilinear`
COLOR = 4  # factor of the image, factor of its luma
SHARPNESS = 5  # how far towards the smoothed image; negative: away from it
BLUR = 6  # weights of a pixel's distance from 0 to 6
BRIGHTNESS = 7  # factor
POSTERIZE = 8  # mask of the bits that stay
SOLARIZE = 9  # the value from which on all are inverted
SOLARIZE_ADD = 10  # what is added, to the values below which
CONTRAST = 11  # factor of the image, factor of its mean luma
AUTO_CONTRAST = 12
EQUALIZE = 13

NUM_PARAMETERS = 8  # of an operation, at most
BLUR_RADIUS = 6  # pixels
