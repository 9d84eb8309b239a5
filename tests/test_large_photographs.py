"""Very large JPEGs, which the native decoder decodes at half of their size where enough is left to resize."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from test_decoders import needed
from test_native import by_pillow, decode, jpeg

from loaders import CropPolicy, open_loader, open_store
from loaders.native.decoder import NativeDecoder

SIDE = 2944
LIMIT = 0.3  # mean difference in levels


def mosaic() -> np.ndarray:
    """(SIDE, SIDE, 3): photographs side by side at their own sharpness, which an enlarged one would lack."""
    rng = np.random.default_rng(0)
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket(), skimage.data.chelsea()]
    canvas = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    for top in range(0, SIDE, 300):
        for left in range(0, SIDE, 400):
            tile = photographs[rng.integers(4)][: SIDE - top, : SIDE - left]
            space = canvas[top : top + tile.shape[0], left : left + tile.shape[1]]
            space[:] = tile[: space.shape[0], : space.shape[1]]
    return canvas


MOSAIC = mosaic()


def boxes_for(side: int, number: int) -> np.ndarray:
    """(n, 4) boxes of about `side` pixels at odd places."""
    rng = np.random.default_rng(side)
    sizes = rng.integers(side, side + 40, (number, 2)).clip(max=SIDE)
    return np.concatenate([rng.integers(0, SIDE + 1 - sizes), sizes], axis=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("sampling", "progressive"),
    [("420", False), ("420", True), ("444", False), ("422", False), ("440", False), ("gray", False)],
)
def test_what_is_decoded_smaller_stays_close(sampling: str, progressive: bool, interpolation: str) -> None:
    data = jpeg(MOSAIC, sampling, 92, progressive, restarts=3)
    decoder = NativeDecoder(interpolation, 2)
    decoder._reference = None  # type: ignore[assignment]
    for size in (224, 171, 120, 61):
        boxes = boxes_for(max(8 * size, 1024), 3)
        flips = np.array([False, True, False])
        found = decode(decoder, [data] * 3, boxes, flips, size)
        for box, flip, pixels in zip(boxes, flips, found, strict=True):
            expected = by_pillow(data, box, bool(flip), size, interpolation).astype(int)
            difference = np.abs(pixels - expected)
            assert difference.mean() <= LIMIT, (size, difference.mean())
            assert difference.max() <= 8, (size, difference.max())
            # Not by a fraction of a pixel beside it: no shift fits better.
            middle = (slice(2, -2), slice(2, -2))
            for axis in (0, 1):
                for shift in (-1, 1):
                    moved = np.roll(pixels, shift, axis).astype(int)
                    assert np.abs(moved - expected)[middle].mean() > 3 * difference[middle].mean()


@pytest.mark.parametrize(("side", "size", "exact"), [(1023, 56, True), (1791, 224, True), (1792, 224, False)])
def test_only_what_is_large_is_decoded_smaller(side: int, size: int, exact: bool) -> None:
    """Below 1,024 px, or with less than four times left to resize, every pixel is Pillow's."""
    data = jpeg(MOSAIC, "420", 92)
    boxes = np.array([[35, 77, side, side + 300], [101, 13, side + 300, side]])
    found = decode(NativeDecoder("bilinear", 1), [data, data], boxes, np.array([False, True]), size)
    equal = [
        np.array_equal(pixels, by_pillow(data, box, bool(place), size, "bilinear"))
        for place, (box, pixels) in enumerate(zip(boxes, found, strict=True))
    ]
    assert equal == [exact, exact]


def test_several_boxes_are_decoded_smaller_only_together() -> None:
    """One that needs the whole size keeps the others at it."""
    data = jpeg(MOSAIC, "420", 92)
    boxes = np.array([[0, 0, 2900, 2900], [501, 303, 200, 200]])
    out = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    assert not NativeDecoder().decode([data], boxes, np.array([False, True]), out, np.array([2]))
    for place, (box, pixels) in enumerate(zip(boxes, out, strict=True)):
        np.testing.assert_array_equal(pixels, by_pillow(data, box, bool(place), 64, "bilinear"))


def test_the_memory_of_a_decode_does_not_grow_with_the_image() -> None:
    """The strips of a 36-megapixel photograph, not the photograph: 108 MB as pixels."""
    buffer = io.BytesIO()
    Image.fromarray(MOSAIC).resize((6000, 6000)).save(buffer, "JPEG", quality=80)
    code = (
        "import sys, resource, numpy as np\n"
        "from loaders.native.decoder import NativeDecoder\n"
        "data = sys.stdin.buffer.read()\n"
        "decoder = NativeDecoder('bilinear', 2)\n"
        "out = np.zeros((8, 224, 224, 3), dtype=np.uint8)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "boxes = np.array([[0, 0, 6000, 6000], [3, 5, 5990, 400]] * 4)\n"
        "assert not decoder.decode([data] * 8, boxes, np.zeros(8, bool), out)\n"
        "print(peak() - before)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], input=buffer.getvalue(), capture_output=True, check=True)
    assert int(found.stdout) < 24e6


@pytest.mark.parametrize("decoder", ["native", "ffcv"])
def test_a_flood_of_small_images_and_a_few_very_large_ones(tmp_path: Path, decoder: str) -> None:
    """One batch holds both, and each comes out whole, as Pillow alone decodes it."""
    needed(decoder)
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (120, 3))
    large = {17, 93}
    for number, colour in enumerate(colours):
        side = (6000, 6000) if number in large else rng.integers(1, 24, 2)
        file = tmp_path / "train" / f"class_{number % 2}" / f"{number:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(colour.astype(np.uint8), (*side, 3)).copy()).save(file, quality=95)
    crops = CropPolicy(interpolation="area" if decoder == "ffcv" else "bilinear")
    loader = open_loader(
        tmp_path, "train", 32, train=True, size=64, decoder=decoder, crops=crops, num_threads=2, shuffle="global"
    )
    store, seen = open_store(tmp_path, "train"), []
    for batch in loader.epoch(0):
        for image, sample in zip(batch.images[batch.valid], batch.ids[batch.valid].tolist(), strict=True):
            seen.append(sample)
            name = int(Path(store.key(sample)).stem)
            assert np.abs(image.numpy().reshape(-1, 3).astype(int) - colours[name]).max() <= 6
    loader.close()
    assert sorted(seen) == list(range(120))
