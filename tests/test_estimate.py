"""What a conversion is said to take, against what it took."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conversions import convert
from hypothesis import given
from hypothesis import strategies as st
from test_convert_images import photograph

from convert.beton_policy import MIN_PAGE, BetonPolicy, num_pages, page_size
from convert.estimate import Estimate, estimate
from convert.images import ImagePolicy
from convert.plan import shuffled
from convert.sources import find_source

pytest_plugins = ("conversions",)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 300 to 400 px, a few of them PNGs, which become JPEGs of another size."""
    root = tmp_path_factory.mktemp("large")
    for number in range(40):
        folder = root / "train" / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        image = photograph(300 + number, 400 - number)
        image.save(folder / f"{number}.{'png' if number % 8 == 0 else 'jpg'}")
    return root


def estimated(source: Path, images: str, beton: BetonPolicy | None = None) -> Estimate:
    scan = find_source(source, "train")
    return estimate(scan, ImagePolicy.parse(images), beton, shuffled(len(scan), 0), workers=1)


def sizes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


@pytest.mark.parametrize("images", ["original", "short_side=128"])
def test_shards_take_what_was_said(images: str, large: Path, tmp_path: Path) -> None:
    said = estimated(large, images)
    assert not said.exact
    assert convert(large, tmp_path, f"--images={images}") == 0
    index = np.load(tmp_path / "train.index.npy")
    assert said.image_bytes == pytest.approx(int(index["length"].sum()), rel=0.01)  # the sample is all of them
    assert said.shard_bytes == pytest.approx(sizes(tmp_path, "*.tar"), rel=0.1)
    assert 0 < said.shard_s < 30


def test_plain_jpegs_take_what_they_took(images: Path) -> None:
    scan = find_source(images, "val")
    said = estimate(scan, ImagePolicy.parse("original"), None, shuffled(len(scan), 0), workers=1)
    assert said.exact
    assert said.image_bytes == sum(path.stat().st_size for path in images.rglob("*.JPEG"))
    assert said.of(3, beton=False).image_bytes == round(said.image_bytes * 3 / 30)


@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_a_beton_takes_the_pages_that_were_said(mode: str, large: Path, tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="needs FFCV and its OpenCV", exc_type=ImportError)
    policy = BetonPolicy(mode="raw" if mode == "raw" else "jpg")
    said = estimated(large, "original", policy)
    assert convert(large, tmp_path, "--formats=beton", f"--beton={mode}") == 0
    pages = said.beton_bytes // MIN_PAGE
    # The rows and tables at the file's ends are no pages of images.
    assert 0 <= (tmp_path / "train.beton").stat().st_size // MIN_PAGE - pages <= 1
    assert said.beton_s > 0
    assert said.of(10, beton=False).beton_bytes == 0


@given(sizes=st.lists(st.integers(1, MIN_PAGE), min_size=1, max_size=40))
def test_pages_are_filled_in_order_and_hold_all(sizes: list[int]) -> None:
    page = page_size(max(sizes))
    assert page == MIN_PAGE
    pages = num_pages(sizes, page)
    assert -(-sum(sizes) // page) <= pages <= len(sizes)
    # Two pages that follow each other hold more than one page's worth, or the second image would lie in the first.
    assert 2 * sum(sizes) > (pages - 1) * page
    assert page_size(MIN_PAGE + 1) == 2 * MIN_PAGE
