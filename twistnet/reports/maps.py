"""Where on an image a TwistNet's second-order interactions are strong, by direction.

What is drawn: at every position of a twist block, and for every head, the mean of |z[i] * t[j]| over its 36 pairs
i <= j. z are the head's 8 channels after its reduction, t the same after the twist, which looks one step along the
head's direction, both normalised to length 1 over the 8 channels: the plain formulation of `twistnet.stci`, before AIS
weighs the products and without the gate. So a map is 1/36 where one channel meets itself, at most 1/8 where all eight
meet evenly, and 0 where a head is silent. Heads of the same direction are averaged. The kernels of the twist are
trained: a direction is the one that its head began with. A map is upsampled to the image bilinearly, and the maps of a
block share one scale, from their lowest to their highest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loaders import InputError
from loaders.augment import IMAGENET_MEAN, IMAGENET_STD
from loaders.reference import ReferenceDecoder
from twistnet.checkpoints import load_checkpoint
from twistnet.interactions import HEAD_CHANNELS, INTERACTION_CHANNELS
from twistnet.recipe import Recipe, from_dict
from twistnet.reports.collect import Run, Table
from twistnet.reports.style import PAGE
from twistnet.run_folder import RunFolder
from twistnet.stci import DIRECTIONS, MultiHeadSTCI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ALPHA = 0.6
ANGLES = ("0°", "45°", "90°", "135°")


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """Interactions of one twist block.

    Attributes:
        block: its name in the model.
        energy: (directions, h, w): the mean absolute product of a pair at each position of the block.
        spiral: whether its heads look along a direction at all.
    """

    block: str
    energy: Tensor
    spiral: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image with its maps.

    Attributes:
        run: whose weights they are of.
        pixels: (S, S, 3) uint8: the image as the model was given it.
        maps: of all twist blocks, in their order.
    """

    run: Run
    pixels: np.ndarray
    maps: Sequence[Maps]


def check_image(path: Path) -> None:
    """Raises InputError where no picture can be read from the file."""
    _size(path, path.read_bytes(), "bilinear")


def picture(tables: Sequence[Table], image: Path) -> Picture:
    """The maps of an image by the run with twist blocks that is best on validation.

    Raises:
        InputError: no run has twist blocks, its weights cannot be read, or there is no such image.
    """
    runs = [run for table in tables for row in table.rows for run in row.runs]
    twisted = {name for name in {run.model for run in runs} if _has_twists(name)}
    candidates = [run for run in runs if run.model in twisted and RunFolder(run.folder).best.exists()]
    if not candidates:
        raise InputError("--image needs a run of a model with twist blocks that has its best.pt, and there is none.")
    run = max(candidates, key=lambda run: run.val_top1)
    kept = load_checkpoint(RunFolder(run.folder).best)
    recipe = from_dict(kept["recipe"])
    model = timm.create_model(run.model, num_classes=run.num_classes)
    model.load_state_dict(kept["ema"] or kept["model"])
    pixels = _pixels(image, recipe)
    return Picture(run=run, pixels=pixels, maps=interaction_maps(model, normalised(pixels)))


@torch.no_grad()
def interaction_maps(model: nn.Module, image: Tensor) -> list[Maps]:
    """The maps of every twist block of a model, which is left in evaluation and computing by the plain formulation.

    Args:
        image: (1, 3, S, S), normalised.
    """
    model.eval()
    found: list[Maps] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadSTCI):
            module.plain = True
            hooks.append(module.ais.register_forward_pre_hook(_noting(found, name.removesuffix(".mhstci"), module)))
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _noting(found: list[Maps], block: str, module: MultiHeadSTCI) -> Any:
    spiral = not isinstance(module.twist, nn.Identity)

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[2:]
        heads = inputs[0][0].view(module.num_heads, INTERACTION_CHANNELS, height, width)
        energy = heads[:, HEAD_CHANNELS:].abs().mean(1)
        directions = min(module.num_heads, len(DIRECTIONS))
        same = [energy[first :: len(DIRECTIONS)].mean(0) for first in range(directions)]
        found.append(Maps(block=block, energy=torch.stack(same), spiral=spiral))

    return note


def normalised(pixels: np.ndarray) -> Tensor:
    """(1, 3, S, S) as training sees it, from (S, S, 3) uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)[None]


def maps_size(shown: Picture) -> tuple[float, float]:
    """Inches: by the number of blocks."""
    across = 1 + max(len(maps.energy) for maps in shown.maps)
    return (PAGE, 0.25 + len(shown.maps) * PAGE / (across + 0.6))


def draw_maps(figure: Figure, shown: Picture) -> None:
    """A line for each twist block: the image, and its maps by direction over the image in gray."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    across = 1 + max(len(maps.energy) for maps in shown.maps)
    grid = figure.subplots(len(shown.maps), across, squeeze=False)
    side = shown.pixels.shape[0]
    gray = shown.pixels.mean(2)
    darkest = 2 * gray.min() - gray.max()  # what would be black: the image in light grays leaves the colours clear
    for number, (line, maps) in enumerate(zip(grid, shown.maps, strict=True)):
        low, high = float(maps.energy.min()), float(maps.energy.max())
        large = F.interpolate(maps.energy[None], size=(side, side), mode="bilinear", align_corners=False)[0]
        line[0].imshow(shown.pixels)
        line[0].set_ylabel(f"{maps.block}, {maps.energy.shape[1]} x {maps.energy.shape[2]}")
        for place, (axes, energy) in enumerate(zip(line[1:], large.numpy(), strict=False)):
            axes.imshow(gray, cmap="gray", vmin=min(darkest, gray.max() - 1))
            heat = axes.imshow(energy, cmap="viridis", vmin=low, vmax=high, alpha=_ALPHA)
            if number == 0:
                axes.set_title(ANGLES[place] if maps.spiral else f"head {place + 1}")
        scale = ScalarMappable(heat.norm, heat.cmap)  # opaque, unlike the maps over the image
        bar = figure.colorbar(scale, ax=list(line), fraction=0.015, pad=0.01, ticks=MaxNLocator(3))
        bar.set_label(r"mean of $|z_i\,t_j|$")
        bar.outline.set_linewidth(0.6)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _has_twists(model: str) -> bool:
    if not timm.is_model(model):
        return False
    with torch.device("meta"):
        return any(isinstance(module, MultiHeadSTCI) for module in timm.create_model(model).modules())


def _size(path: Path, data: bytes, interpolation: str) -> np.ndarray:
    decoder = ReferenceDecoder(interpolation)
    try:
        sizes, failures = decoder.sizes([data])
    finally:
        decoder.close()
    if failures:
        raise InputError(f"{path} cannot be read as an image ({failures[0]}): name a JPEG or PNG.")
    return sizes


def _pixels(path: Path, recipe: Recipe) -> np.ndarray:
    """(S, S, 3) uint8: the crop that the recipe tests on."""
    data = path.read_bytes()
    sizes = _size(path, data, recipe.interpolation)
    boxes = recipe.crops().boxes(recipe.seed, 0, np.zeros(1, np.int64), sizes, train=False)
    out = np.zeros((1, recipe.eval_size, recipe.eval_size, 3), np.uint8)
    decoder = ReferenceDecoder(recipe.interpolation)
    try:
        failures = decoder.decode([data], boxes, np.zeros(1, np.bool_), out)
    finally:
        decoder.close()
    if failures:
        raise InputError(f"{path} cannot be read as an image ({failures[0]}): name a JPEG or PNG.")
    return np.asarray(out[0])
