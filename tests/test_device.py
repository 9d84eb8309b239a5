"""Crops on the device, held to Pillow bit for bit: by plain torch, and by the kernels in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_native import ONE_ORDER, PHOTOGRAPHS, by_pillow, jpeg, random_box

from loaders.device import passes
from loaders.device.decoder import DeviceDecoder
from loaders.device.resize import resize
from loaders.device.taps import BITS, most_taps, taps_of
from loaders.native.library import why_missing
from loaders.reference import ReferenceDecoder

CPU = torch.device("cpu")
TOLERANCE = int(ONE_ORDER)  # of older versions, which round in another order
needs_library = pytest.mark.skipif(bool(why_missing()), reason=str(why_missing()))

# A batch of small boxes: the interpreter is slow.
INTERPRETED = """
import sys
import numpy as np, torch
from loaders.device import kernels, passes, resize as resizing
from loaders.device.kernels import triton
rng = np.random.default_rng(3)
sizes = np.array([[1, 1], [9, 5], [3, 30], [40, 3], [12, 8]])
flips = np.array([True, False, True, False, True])
bytes_of = 3 * sizes.prod(axis=1)
pixels = torch.from_numpy(rng.integers(0, 256, bytes_of.sum(), np.uint8))
for interpolation in ("bilinear", "bicubic"):
    for size in ((4, 7), (20, 17)):  # the second takes two programs a box
        found = []
        for module in (passes, kernels):
            resizing._resample_on = lambda device: module.resample
            out = torch.zeros(len(sizes), *size, 3, dtype=torch.uint8)
            resizing.resize(pixels, np.cumsum(bytes_of) - bytes_of, sizes, flips, out, interpolation)
            found.append(out)
        assert found[0].float().std() > 20
        assert torch.equal(*found), (interpolation, size)
print("equal")
"""


def packed(crops: list[np.ndarray]) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    sizes = np.array([crop.shape[:2] for crop in crops])
    lengths = 3 * sizes.prod(axis=1)
    return torch.from_numpy(np.concatenate([crop.ravel() for crop in crops])), np.cumsum(lengths) - lengths, sizes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (31, 64), (96, 96), (224, 160)])
def test_boxes_of_any_size_are_resized_as_pillow_does(size: tuple[int, int], interpolation: str) -> None:
    rng = np.random.default_rng(sum(size))
    boxes = [(1, 1), (1, 300), (300, 1), (2, 2), size, (500, 60), (60, 500)]
    crops = [PHOTOGRAPHS[place % 2][: min(h, 300), : min(w, 451)] for place, (h, w) in enumerate(boxes)]
    for place in range(9):
        photograph = PHOTOGRAPHS[place % 4]
        top, left, height, width = random_box(rng, *photograph.shape[:2])
        crops.append(photograph[top : top + height, left : left + width])
    pixels, starts, sizes = packed([np.ascontiguousarray(crop) for crop in crops])
    flips = rng.random(len(crops)) < 0.5
    out = torch.zeros(len(crops), *size, 3, dtype=torch.uint8)
    resize(pixels, starts, sizes, flips, out, interpolation)
    for crop, flip, found in zip(crops, flips, out.numpy(), strict=True):
        box = np.array([0, 0, *crop.shape[:2]])
        right = by_pillow(np.ascontiguousarray(crop), box, flip, size, interpolation)
        assert np.abs(found.astype(int) - right).max() <= TOLERANCE, crop.shape


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_weights_add_up_and_lie_inside(interpolation: str) -> None:
    lengths = torch.tensor([1, 2, 7, 64, 500, 4000])
    most = most_taps(4000, 32, interpolation)
    taps = taps_of(lengths, torch.full_like(lengths, 32), 32, interpolation, most)
    assert (taps.weights.sum(dim=-1) - (1 << BITS)).abs().max() <= most
    ends = taps.firsts + (taps.weights != 0).cumsum(dim=-1).argmax(dim=-1)
    assert (taps.firsts >= 0).all()
    assert (ends < lengths[:, None]).all()


def test_the_kernels_are_the_passes(tmp_path: Path) -> None:
    """In a process of its own: Triton must be told to interpret before it is imported."""
    pytest.importorskip("triton")
    script = tmp_path / "script.py"
    script.write_text(INTERPRETED)
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "equal\n", done.stderr


@needs_library
def test_raw_pixels_and_all_others_in_one_batch() -> None:
    """At the borders, in their places, several boxes of one image; what is not raw by the native decoder."""
    decoder, rng = DeviceDecoder("bilinear", 2, CPU), np.random.default_rng(0)
    data = [PHOTOGRAPHS[1], jpeg(PHOTOGRAPHS[0], "420"), PHOTOGRAPHS[2], PHOTOGRAPHS[3][:50, :60].copy(), b"torn"]
    sizes, failures = decoder.sizes(data)
    assert set(failures) == {4}
    counts = np.array([4, 1, 2, 1, 1])
    height, width = sizes[0]
    boxes = [[0, 0, 1, 1], [height - 7, width - 9, 7, 9], [0, width - 20, height, 20], [0, 0, height, width]]
    boxes += [random_box(rng, *sizes[owner]).tolist() for owner in (1, 2, 2, 3)] + [[0, 0, 1, 1]]
    flips = rng.random(9) < 0.5
    out = np.zeros((9, 24, 24, 3), dtype=np.uint8)
    assert set(decoder.decode(data, np.array(boxes), flips, out, counts)) == {4}
    for place, owner in enumerate(np.repeat(np.arange(4), counts[:4])):
        right = by_pillow(data[owner], np.array(boxes[place]), flips[place], 24, "bilinear")
        assert np.abs(out[place].astype(int) - right).max() <= TOLERANCE
    assert not out[8].any()
    decoder.close()
    with pytest.raises(ValueError, match="was closed"):
        decoder.decode(data, np.array(boxes), flips, out, counts)


@needs_library
@pytest.mark.parametrize(
    "box", [[0, 0, 301, 10], [-1, 0, 5, 5], [0, 0, 0, 5], [299, 450, 2, 1], [0, 0, 1 << 40, 1 << 40]]
)
def test_a_box_that_is_not_inside_is_as_for_the_reference(box: list[int]) -> None:
    """No memory is taken for it, none beside the image is read, and the image beside it is whole."""
    decoder, reference = DeviceDecoder("bilinear", 1, CPU), ReferenceDecoder("bilinear")
    data, outs = [PHOTOGRAPHS[2][:8, :8].copy(), PHOTOGRAPHS[1]], np.zeros((2, 2, 8, 8, 3), dtype=np.uint8)
    failures = [
        each.decode(data, np.array([[0, 0, 8, 8], box]), np.zeros(2, dtype=bool), out)
        for each, out in zip((decoder, reference), outs, strict=True)
    ]
    assert failures[0].keys() == failures[1].keys()
    np.testing.assert_array_equal(*outs)
    np.testing.assert_array_equal(outs[0][0], data[0])
    decoder.close()


def test_work_is_done_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = [np.ascontiguousarray(PHOTOGRAPHS[1][: 20 + place, : 30 + place]) for place in range(7)]
    found = []
    for at_once in (1 << 22, 3 * 16 * 16 * 2, 1):
        monkeypatch.setattr(passes, "_AT_ONCE", at_once)
        out = torch.zeros(7, 16, 16, 3, dtype=torch.uint8)
        resize(*packed(crops), np.zeros(7, dtype=bool), out, "bilinear")
        found.append(out)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
