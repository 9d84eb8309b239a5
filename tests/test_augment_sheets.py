"""The pictures of augmentation: what stands in each cell, and the command that draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from convert.photographs import make_demo_sets
from loaders.augment import RandAugment, TimmRandAugment
from twistnet.augment_sheets import most_colourful, operations_sheet
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
