"""Every RandAugment operation against torchvision's own, pixel by pixel, at every magnitude and either sign.

By plain torch and by the compiled library alike; test_augment_kernels.py holds the kernels to the former.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from loaders.augment import on_cpu
from loaders.augment.running import plainly
from loaders.augment.spaces import Operation, parameters_of, torchvision_space, wide_space
from loaders.augment.table import Table

NUM_BINS = 31
SIZES = [(224, 224), (96, 96), (61, 83)]
# torchvision's rounding of these depends on a value's place in the tensor: one level is what can be asked.
BLENDS = {"Color", "Contrast", "Sharpness"}
SPACE = {operation.name: operation for operation in torchvision_space(NUM_BINS)}
RUNS: dict[str, Callable[[Tensor, Table], Tensor]] = {"torch": plainly, "compiled": on_cpu.operated}

# What `v2.RandAugment` calls for each operation, with (..., 3, H, W) images.
REFERENCE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, m: F.affine(image, 0.0, [0, 0], 1.0, [math.degrees(math.atan(m)), 0.0], center=[0, 0]),
    "ShearY": lambda image, m: F.affine(image, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(m))], center=[0, 0]),
    "TranslateX": lambda image, m: F.affine(image, 0.0, [int(m), 0], 1.0, [0.0, 0.0]),
    "TranslateY": lambda image, m: F.affine(image, 0.0, [0, int(m)], 1.0, [0.0, 0.0]),
    "Rotate": F.rotate,
    "Brightness": lambda image, m: F.adjust_brightness(image, 1.0 + m),
    "Color": lambda image, m: F.adjust_saturation(image, 1.0 + m),
    "Contrast": lambda image, m: F.adjust_contrast(image, 1.0 + m),
    "Sharpness": lambda image, m: F.adjust_sharpness(image, 1.0 + m),
    "Posterize": lambda image, m: F.posterize(image, int(m)),
    "Solarize": lambda image, m: F.solarize(image, 255.0 * m),
    "AutoContrast": lambda image, _: F.autocontrast(image),
    "Equalize": lambda image, _: F.equalize(image),
}


def photographs(height: int, width: int) -> Tensor:
    """Crops of three photographs: (3, H, W, 3) uint8."""
    crops = [
        image[20 : 20 + height, 60 : 60 + width]
        for image in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    ]
    return torch.from_numpy(np.stack(crops))


def artificial(height: int, width: int) -> Tensor:
    """A ramp each way, random bytes and a constant: (4, H, W, 3) uint8."""
    across = np.linspace(0, 255, width)[None, :, None] * np.array([1.0, 0.5, 0.25])
    down = np.linspace(255, 0, height)[:, None, None] * np.array([0.3, 1.0, 0.7])
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    images = [np.broadcast_to(image, (height, width, 3)) for image in (across, down, noise, np.array([7, 99, 200]))]
    return torch.from_numpy(np.stack(images).astype(np.uint8))


def settings(name: str, height: int, width: int) -> Iterator[float]:
    """Every magnitude of an operation, either way where its sign is drawn, from torchvision's own table."""
    table, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
    magnitudes = table(NUM_BINS, height, width)
    for magnitude in [0.0] if magnitudes is None else magnitudes.tolist():
        yield magnitude
        if signed:
            yield -magnitude


def table_with(operation: Operation, magnitude: float, images: Tensor) -> Table:
    """That operation with that signed magnitude for all images."""
    count, height, width, _ = images.shape
    parameters = parameters_of(operation, np.full(count, magnitude), height, width)
    kinds = np.full((count, 1), operation.kind, dtype=np.int32)
    return Table(kinds, parameters[:, None], (0, 0, 0), frozenset({operation.kind}))


def sheared_halfway(name: str, images: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels of a shear have their source halfway between two pixels, and those two, black outside.

    Which of the two torchvision takes is the last bit of a matrix product: processors with a fused multiply-add in
    theirs take one, the others the other.
    """
    if name == "ShearY":
        halfway, *both = sheared_halfway("ShearX", images.transpose(1, 2), slope)
        return halfway.T, *(each.transpose(1, 2) for each in both)
    _, height, width, _ = images.shape
    columns = torch.arange(width) + slope * (torch.arange(height, dtype=torch.float64)[:, None] + 0.5)
    left, rows = columns.floor().long(), torch.arange(height)[:, None]
    both = []
    for source in (left, left + 1):
        inside = ((source >= 0) & (source < width)).unsqueeze(-1)
        both.append(torch.where(inside, images[:, rows, source.clamp(0, width - 1)], 0))
    return (columns - left - 0.5).abs() < 1e-4, *both


def compare(name: str, images: Tensor, run: Callable[[Tensor, Table], Tensor]) -> None:
    """An operation at all its magnitudes.

    In a blend a few values may be a level away: one of ten thousand over all magnitudes, because at one of them it may
    be a value that a ramp has in a whole column.
    """
    before, differing, total = images.clone(), 0, 0
    for magnitude in settings(name, *images.shape[1:3]):
        ours = run(images, table_with(SPACE[name], magnitude, images))
        theirs = REFERENCE[name](images.permute(0, 3, 1, 2).contiguous(), magnitude).permute(0, 2, 3, 1)
        assert ours.dtype == torch.uint8
        assert ours.shape == images.shape
        if name.startswith("Shear"):
            halfway, one, other = sheared_halfway(name, images, magnitude)
            either = (ours == one).all(dim=-1) | (ours == other).all(dim=-1)
            assert either[:, halfway].all(), f"{name} at {magnitude}"
            theirs = torch.where(halfway.unsqueeze(-1), ours, theirs)
        difference = (ours.int() - theirs.int()).abs()
        assert difference.max() <= (1 if name in BLENDS else 0), f"{name} at {magnitude}"
        differing, total = differing + int(difference.count_nonzero()), total + ours.numel()
    assert differing <= max(8, total * 1e-4), name
    assert torch.equal(images, before), "the images given were changed"


def test_space_is_torchvisions_in_its_order() -> None:
    theirs = v2.RandAugment._AUGMENTATION_SPACE
    assert list(SPACE) == list(theirs)
    assert [operation.signed for operation in SPACE.values()] == [signed for _, signed in theirs.values()]


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize("num_bins", [2, 10, 31])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("space_of", "reference"), [(torchvision_space, v2.RandAugment), (wide_space, v2.TrivialAugmentWide)]
)
def test_magnitudes_are_torchvisions(
    name: str,
    num_bins: int,
    height: int,
    width: int,
    space_of: Callable[[int], tuple[Operation, ...]],
    reference: type[v2.RandAugment],
) -> None:
    table, signed = reference._AUGMENTATION_SPACE[name]
    theirs = table(num_bins, height, width)
    expected = [0.0] * num_bins if theirs is None else [float(magnitude) for magnitude in theirs]
    ours = {operation.name: operation for operation in space_of(num_bins)}[name]
    assert ours.magnitudes(np.arange(num_bins, dtype=np.float64), height, width).tolist() == expected
    assert ours.signed == signed


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_bin_and_sign_gives_torchvisions_pixels(
    name: str, height: int, width: int, run: Callable[[Tensor, Table], Tensor]
) -> None:
    compare(name, photographs(height, width), run)
    compare(name, artificial(height, width), run)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (128, 77)])
def test_geometry_picks_torchvisions_pixel_everywhere(
    name: str, height: int, width: int, run: Callable[[Tensor, Table], Tensor]
) -> None:
    # Photographs have equal neighbours that would hide a wrong pixel: here every pixel but the fill is unique.
    place = torch.arange(1, height * width + 1).view(height, width)
    image = torch.stack((place & 255, place >> 8 & 255, place >> 16), dim=-1).to(torch.uint8)
    compare(name, image[None], run)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (2, 40), (40, 2), (17, 16)])
def test_tiny_images(name: str, height: int, width: int, run: Callable[[Tensor, Table], Tensor]) -> None:
    images = torch.randint(0, 256, (5, height, width, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    compare(name, images, run)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("name", ["Contrast", "Sharpness", "Solarize", "AutoContrast", "Equalize"])
def test_images_of_few_levels(name: str, run: Callable[[Tensor, Table], Tensor]) -> None:
    generator = torch.manual_seed(0)
    constant = torch.arange(0, 256, 5, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 32, 32, 3)
    two_levels = torch.randint(0, 2, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    narrow = torch.randint(100, 104, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    one_bright = torch.ones(1, 32, 32, 3, dtype=torch.uint8)
    one_bright[0, 5, 6] = 255
    # Equalize has nothing to spread where fewer than 255 pixels lie below the brightest level: both sides of that.
    steps = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    for image, dark in zip(steps, (254, 255, 256, 1023), strict=True):
        image.view(-1, 3)[dark:] = 200
    images = torch.cat((constant, two_levels, two_levels * 255, narrow, one_bright, steps))
    compare(name, images, run)
