"""The pictures of augmentation: what stands in each cell, and the command that draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from convert.photographs import make_demo_sets
from loaders import Batch
from loaders.augment import Augment, AugmentDraws, Mix, RandAugment, TimmRandAugment
from loaders.draws import MIXUP, NO_MIX, MixDraws
from twistnet.augment_sheets import batch_sheet, most_colourful, operations_sheet
from twistnet.cli import run

SIDE, MARGIN, LINE = 64, 4, 12


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    left, top = MARGIN + column * (SIDE + MARGIN), MARGIN + row * (SIDE + LINE + 2 * MARGIN)
    return np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)))


def test_each_row_is_an_operation_at_growing_magnitudes(tmp_path: Path) -> None:
    image = torch.from_numpy(skimage.data.astronaut()[100 : 100 + SIDE, 180 : 180 + SIDE].copy())
    with Image.open(operations_sheet(RandAugment(), image, tmp_path / "new" / "sheet.png")) as opened:
        sheet = opened.convert("RGB")
    for row in range(14):
        np.testing.assert_array_equal(cell(sheet, row, 0), image.numpy())
    planes = image.permute(2, 0, 1)
    for column, degrees in enumerate((-30.0, -15.0, 0.0, 15.0, 30.0)):
        expected = F.rotate(planes, degrees).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(cell(sheet, 5, 1 + column), expected)
    np.testing.assert_array_equal(cell(sheet, 13, 1), F.equalize(planes).permute(1, 2, 0).numpy())
    assert (cell(sheet, 13, 2) == 255).all(), "an operation without a magnitude is shown once"


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """What is written into a sheet from here on: row and column of its cell, and the line."""
    found = []
    write = ImageDraw.ImageDraw.text

    def record(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *more: Any, **options: Any) -> None:
        column, row = int(place[0]) // (SIDE + MARGIN), int(place[1]) // (SIDE + LINE + 2 * MARGIN)
        found.append((row, column, text))
        write(self, place, text, *more, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return found


def test_captions_of_operations_are_torchvisions_magnitudes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = written(monkeypatch)
    operations_sheet(RandAugment(), torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8), tmp_path / "sheet.png")
    for row, (name, (table, signed)) in enumerate(v2.RandAugment._AUGMENTATION_SPACE.items()):
        operation, *captions = [text for at, _, text in found if at == row]
        assert operation == name
        magnitudes = table(31, SIDE, SIDE)
        if magnitudes is None:
            assert captions == [""]
            continue
        bins = (-30, -15, 0, 15, 30) if signed else np.linspace(0, 30, 5).astype(int)
        expected = [float(np.sign(bin_) if signed else 1) * float(magnitudes[abs(bin_)]) for bin_ in bins]
        assert [float(caption) for caption in captions] == pytest.approx(expected, rel=0.01), name


def test_a_batch_is_shown_as_it_was_with_its_labels_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph = skimage.data.astronaut()[100 : 100 + SIDE, 180 : 180 + SIDE]
    images = torch.from_numpy(np.stack((np.full_like(photograph, 255), np.zeros_like(photograph), photograph)))
    kinds, partners = np.array([MIXUP, MIXUP, NO_MIX]), np.array([1, 0, 2])
    weights, boxes = np.array([0.75, 0.875, 1.0], dtype=np.float32), np.zeros((3, 4), np.int64)
    augment = Augment(mix=Mix())
    mixed = augment(images, AugmentDraws(mix=MixDraws(kinds, partners, weights, boxes)))
    labels, valid = torch.arange(3), torch.ones(3, dtype=torch.bool)
    batch = Batch(mixed, labels, labels[torch.from_numpy(partners)], torch.from_numpy(weights), valid, labels)
    found = written(monkeypatch)
    with Image.open(batch_sheet(batch, augment, ("w", "b", "p"), tmp_path / "sheet.png")) as opened:
        sheet = opened.convert("RGB")
    # The first is three quarters of white and a quarter of black, and so are the labels below it.
    for column, expected in enumerate((images[0] * 0.75, images[0] * 0.125, images[2])):
        np.testing.assert_array_equal(cell(sheet, 0, column), expected.round().to(torch.uint8).numpy())
    captions = [[text for _, at, text in found if at == column] for column in range(3)]
    assert captions == [["w 0.75", "b 0.25"], ["b 0.88", "w 0.12"], ["p"]]


def test_the_most_colourful_image_is_found() -> None:
    gray = torch.full((8, 8, 3), 200, dtype=torch.uint8)
    red = gray.clone()
    red[..., 1:] = 10
    assert torch.equal(most_colourful(torch.stack((gray, red, gray))), red)


def test_the_command_draws_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_demo_sets(tmp_path / "data", train_per_class=4, progress=False).photographs
    out = tmp_path / "sheets"
    words = [
        "augment",
        "show",
        "--data_dir",
        str(data),
        "--out",
        str(out),
        "--size",
        "64",
        "--policy",
        "rand-m7-n2-mstd0.5-inc1",
    ]
    assert run(words) == 0
    assert capsys.readouterr().out.count(".png") == 2
    with Image.open(out / "operations.png") as sheet:
        space = TimmRandAugment(increasing=True).space
        assert sheet.size == (6 * (SIDE + MARGIN) + MARGIN, len(space) * (SIDE + LINE + 2 * MARGIN) + MARGIN)
    first = (out / "batch.png").read_bytes()
    none = tmp_path / "none"
    assert (
        run(["augment", "show", "--data_dir", str(data), "--out", str(none), "--size", "64", "--policy", "none"]) == 0
    )
    assert [path.name for path in none.iterdir()] == ["batch.png"]
    assert run(words) == 0
    assert (out / "batch.png").read_bytes() == first, "the same draws again"
    assert run([*words, "--epoch", "1"]) == 0
    assert (out / "batch.png").read_bytes() != first


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--policy", "autoaugment"], "'autoaugment'"),
        (["--epoch", "-1"], "-1"),
        (["--recipe", "b1"], "'b1'"),
        (["--size", "8"], "size 8"),
    ],
)
def test_wrong_values_are_refused(
    more: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["augment", "show", "--data_dir", str(tmp_path), "--out", str(tmp_path / "out"), *more]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
