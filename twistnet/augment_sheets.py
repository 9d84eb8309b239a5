"""Pictures of what augmentation does: every operation of a policy, and a training batch as the model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from loaders import Batch
from loaders.augment import Augment, Policy
from loaders.augment.running import run_operations
from loaders.draws import OpDraws
from loaders.files import write_atomically

_STEPS = 5  # magnitudes of an operation
_MARGIN = 4  # pixels
_LINE = 12

_Pixels = npt.NDArray[np.uint8]


def operations_sheet(policy: Policy, image: Tensor, path: Path) -> Path:
    """Draws one row an operation: its name, the image, and the image at magnitudes from the weakest to the strongest.

    Where the sign is drawn too, from the strongest one way to the strongest the other.

    Args:
        policy: whose space is shown.
        image: (H, W, 3) uint8.
        path: where the sheet goes, a PNG.

    Returns:
        `path`.
    """
    height, width, _ = image.shape
    rows = []
    for op, (operation, (low, high)) in enumerate(zip(policy.space, policy.levels, strict=True)):
        steps = np.linspace(-1.0, 1.0, _STEPS) if operation.signed else np.linspace(0.0, 1.0, _STEPS)
        levels = low + (high - low) * np.abs(steps)
        if policy.num_bins is not None:
            levels = np.floor(levels)
        signs = np.where(steps < 0, -1, 1)
        magnitudes = operation.magnitudes(levels, height, width) * (signs if operation.signed else 1)
        if len(set(magnitudes.tolist())) == 1:
            magnitudes, levels, signs = magnitudes[:1], levels[:1], signs[:1]
        draws = OpDraws(np.full((len(levels), 1), op), levels[:, None], signs[:, None])
        changed = run_operations(image.expand(len(levels), -1, -1, -1), policy.table(draws, height, width))
        captions = [f"{magnitude:.3g}" if magnitudes.any() else "" for magnitude in magnitudes]
        rows.append([(image.numpy(), operation.name), *zip(changed.numpy(), captions, strict=True)])
    return _draw(rows, path)


def most_colourful(images: Tensor) -> Tensor:
    """The (H, W, 3) one of (B, H, W, 3) uint8 images whose channels differ most: colours show on it."""
    values = images.float()
    return images[(values.amax(-1) - values.amin(-1)).mean(dim=(1, 2)).argmax()]


def batch_sheet(batch: Batch, augment: Augment, classes: Sequence[str], path: Path, columns: int = 4) -> Path:
    """Draws the images of a batch, normalisation undone, with their labels and mixing weights under them.

    Args:
        batch: of images augmented by `augment`, in the host's memory.
        augment: says how they were normalised.
        classes: names of the labels.
        path: where the sheet goes, a PNG.
        columns: images a row.

    Returns:
        `path`.
    """
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (augment.mean, augment.std))
    values = (batch.images.float() * std + mean).mul_(255.0).round_().clamp_(0, 255)
    pixels = values.to(torch.uint8).permute(0, 2, 3, 1).numpy()
    captions = []
    for label, partner, weight in zip(
        batch.labels.tolist(), batch.partner.tolist(), batch.weight.tolist(), strict=True
    ):
        own = classes[label]
        captions.append(own if weight == 1 else f"{own} {weight:.2f}\n{classes[partner]} {1 - weight:.2f}")
    cells = list(zip(pixels, captions, strict=True))
    return _draw([cells[start : start + columns] for start in range(0, len(cells), columns)], path)


def _draw(rows: Sequence[Sequence[tuple[_Pixels, str]]], path: Path) -> Path:
    """Pictures in rows, each with its caption of one or two lines below."""
    height, width, _ = rows[0][0][0].shape
    font = _font()
    lines = max(caption.count("\n") + 1 for row in rows for _, caption in row)
    down, across = height + lines * _LINE + 2 * _MARGIN, width + _MARGIN
    sheet = Image.new("RGB", (max(map(len, rows)) * across + _MARGIN, len(rows) * down + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, cells in enumerate(rows):
        for column, (pixels, caption) in enumerate(cells):
            left, top = _MARGIN + column * across, _MARGIN + row * down
            sheet.paste(Image.fromarray(pixels), (left, top))
            for line, text in enumerate(caption.split("\n")):
                draw.text((left, top + height + 1 + line * _LINE), _fitting(text, width, font), fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    return path


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text with two dots for the letters, before its last word, that do not fit."""
    if font.getlength(text) <= width or " " not in text:
        return text
    first, _, last = text.rpartition(" ")
    while first and font.getlength(f"{first}.. {last}") > width:
        first = first[:-1]
    return f"{first}.. {last}"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """One with the letters of many languages where the system has it."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", _LINE - 2)
    except OSError:
        return ImageFont.load_default(_LINE - 1)
