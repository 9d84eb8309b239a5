"""The native decoder, held to Pillow: equal pixels for all that JPEGs do, and no crash whatever the bytes."""

from __future__ import annotations

import io
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
import skimage.data
from native_builds import sanitized
from PIL import Image
from test_reference import ODD, encoded

from loaders.native.decoder import NativeDecoder
from loaders.reference import FILTERS, ReferenceDecoder

PHOTOGRAPHS = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket())
SAMPLINGS = ("444", "422", "420", "411", "440", "gray")
ONE_ORDER = int(PIL.__version__.partition(".")[0]) < 13  # which takes rows before columns, whatever the box


def jpeg(pixels: np.ndarray, sampling: str, quality: int = 90, progressive: bool = False, restarts: int = 0) -> bytes:
    """By OpenCV, which can write more kinds than Pillow."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    options += [cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    if sampling == "gray":
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    else:
        image = pixels[:, :, ::-1]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")]
    done, data = cv2.imencode(".jpg", image, options)
    assert done
    return bytes(data.tobytes())


def by_pillow(
    data: bytes | np.ndarray, box: np.ndarray, flip: bool, size: int | tuple[int, int], interpolation: str
) -> np.ndarray:
    image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data)).convert("RGB")
    top, left, height, width = (int(edge) for edge in box)
    out_height, out_width = (size, size) if isinstance(size, int) else size
    crop = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(crop.resize((out_width, out_height), FILTERS[interpolation]))
    return pixels[:, ::-1] if flip else pixels


def random_box(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    size = rng.integers(1, (height + 1, width + 1))
    return np.concatenate([rng.integers(0, (height - size[0] + 1, width - size[1] + 1)), size])


def decode(
    decoder: NativeDecoder, data: list[bytes | np.ndarray], boxes: np.ndarray, flips: np.ndarray, size: int
) -> np.ndarray:
    out = np.zeros((len(boxes), size, size, 3), dtype=np.uint8)
    assert not decoder.decode(data, boxes, flips, out)
    return out


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pixels_are_pillows_bit_for_bit(sampling: str, progressive: bool, interpolation: str) -> None:
    """At any place of any size, also where a crop begins between blocks; without the reference decoder's help."""
    rng = np.random.default_rng(SAMPLINGS.index(sampling))
    decoder = NativeDecoder(interpolation, 2)
    decoder._reference = None  # type: ignore[assignment]
    for size in (1, 7, 32, 100, 224):
        images = []
        for number in range(12):
            photograph = PHOTOGRAPHS[number % 4]
            top, left, height, width = random_box(rng, *photograph.shape[:2])
            pixels = np.ascontiguousarray(photograph[top : top + height, left : left + width])
            images.append(jpeg(pixels, sampling, int(rng.integers(40, 100)), progressive, int(rng.integers(0, 4))))
        sizes, failures = decoder.sizes(images)
        assert not failures
        boxes = np.stack([random_box(rng, *size) for size in sizes])
        flips = rng.random(len(images)) < 0.5
        found = decode(decoder, images, boxes, flips, size)
        for data, box, flip, pixels in zip(images, boxes, flips, found, strict=True):
            expected = by_pillow(data, box, flip, size, interpolation)
            if ONE_ORDER and box[2] - size > 2 * max(box[3] - size, 0):
                assert np.abs(pixels.astype(int) - expected).mean() < 0.5
            else:
                np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_raw_pixels_are_resized_as_pillow_does(interpolation: str) -> None:
    rng = np.random.default_rng(0)
    decoder = NativeDecoder(interpolation, 2)
    for size in (5, 64, 224):
        images = [rng.integers(0, 256, (*rng.integers(1, 300, 2), 3), dtype=np.uint8) for _ in range(20)]
        boxes = np.stack([random_box(rng, *image.shape[:2]) for image in images])
        boxes[:4] = [[0, 0, *image.shape[:2]] for image in images[:4]]
        flips = rng.random(len(images)) < 0.5
        for image, box, flip, pixels in zip(
            images, boxes, flips, decode(decoder, images, boxes, flips, size), strict=True
        ):
            if not (ONE_ORDER and box[2] - size > 2 * max(box[3] - size, 0)):
                np.testing.assert_array_equal(pixels, by_pillow(image, box, flip, size, interpolation))


def test_several_boxes_of_an_image_are_as_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    data: list[bytes | np.ndarray] = [
        jpeg(PHOTOGRAPHS[0], "420"),
        PHOTOGRAPHS[1],
        ODD["png"],
        jpeg(PHOTOGRAPHS[2], "444"),
    ]
    counts = np.array([3, 2, 2, 1])
    decoder = NativeDecoder("bilinear", 2)
    sizes, _ = decoder.sizes(data)
    owners = np.repeat(np.arange(4), counts)
    boxes = np.stack([random_box(rng, *sizes[owner]) for owner in owners])
    flips = rng.random(8) < 0.5
    for each in (decoder, ReferenceDecoder("bilinear")):
        out = np.zeros((8, 48, 48, 3), dtype=np.uint8)
        assert not each.decode(data, boxes, flips, out, counts)
        for place, owner in enumerate(owners):
            np.testing.assert_array_equal(
                out[place], by_pillow(pixels_of(data[owner]), boxes[place], flips[place], 48, "bilinear")
            )


def pixels_of(data: bytes | np.ndarray) -> np.ndarray:
    return data if isinstance(data, np.ndarray) else np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_the_references(name: str) -> None:
    data, out = [ODD["jpeg"], ODD[name]], np.zeros((2, 2, 40, 40, 3), dtype=np.uint8)
    decoders = NativeDecoder("bilinear", 1), ReferenceDecoder("bilinear")
    sizes = [decoder.sizes(data) for decoder in decoders]
    assert not sizes[0][1]
    np.testing.assert_array_equal(sizes[0][0], sizes[1][0])
    boxes = np.array([[0, 0, *size] for size in sizes[0][0]])
    for decoder, pixels in zip(decoders, out, strict=True):
        assert not decoder.decode(data, boxes, np.array([True, False]), pixels)
    np.testing.assert_array_equal(*out)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_is_found_wherever_the_box_is(progressive: bool) -> None:
    """Also below the region, which is all that is read of a whole one."""
    whole = jpeg(PHOTOGRAPHS[1], "420", progressive=progressive)
    decoder, reference = NativeDecoder("bilinear", 2), ReferenceDecoder("bilinear")
    cuts = [*range(0, 700, 9), *range(700, len(whole), len(whole) // 40), len(whole) - 1]
    data: list[bytes] = [whole[:cut] for cut in cuts]
    boxes, flips = np.tile(np.array([[0, 0, 20, 30]]), (len(data), 1)), np.zeros(len(data), dtype=bool)
    outs = np.zeros((2, len(data), 16, 16, 3), dtype=np.uint8)
    failures = [each.decode(data, boxes, flips, out) for each, out in zip((decoder, reference), outs, strict=True)]
    assert failures[0] == failures[1]
    assert len(failures[0]) > len(data) - 3
    np.testing.assert_array_equal(*outs)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken() -> None:
    data = bytearray(jpeg(PHOTOGRAPHS[1][:64, :64], "420"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xf0\xff\xf0"
    decoder = NativeDecoder("bilinear", 1)
    _, failures = decoder.sizes([bytes(data)])
    assert "limit" in failures[0]


def test_an_image_that_lacks_its_tables_does_not_take_those_of_another() -> None:
    whole = jpeg(PHOTOGRAPHS[1][:64, :64], "444")
    at = whole.index(b"\xff\xdb")
    lacking = whole[:at] + whole[at + 2 + int.from_bytes(whole[at + 2 : at + 4], "big") :]
    decoder = NativeDecoder("bilinear", 1)
    out = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    box = np.tile(np.array([[0, 0, 64, 64]]), (3, 1))
    failures = decoder.decode([whole, lacking, whole], box, np.zeros(3, dtype=bool), out)
    assert list(failures) == [1]
    np.testing.assert_array_equal(out[0], out[2])


def test_threads_and_callers_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    data: list[bytes | np.ndarray] = [jpeg(PHOTOGRAPHS[place % 4][: 100 + place], "420") for place in range(40)]
    sizes, _ = NativeDecoder("bilinear", 1).sizes(data)
    boxes, flips = np.stack([random_box(rng, *size) for size in sizes]), rng.random(40) < 0.5
    expected = decode(NativeDecoder("bilinear", 1), data, boxes, flips, 64)
    for num_threads in (2, 8):
        decoder = NativeDecoder("bilinear", num_threads)
        found: list[np.ndarray] = []
        callers = [
            threading.Thread(target=lambda: found.append(decode(decoder, data, boxes, flips, 64)))  # noqa: B023
            for _ in range(6)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert len(found) == 6
        for pixels in found:
            np.testing.assert_array_equal(pixels, expected)
        decoder.close()


def test_views_of_read_only_memory_are_taken_as_they_are() -> None:
    whole = memoryview(b"xx" + ODD["jpeg"] + b"yy")[2:-2]
    assert whole.readonly
    decoder = NativeDecoder("bilinear", 1)
    sizes, _ = decoder.sizes([whole])
    found = decode(decoder, [whole], np.array([[0, 0, *sizes[0]]]), np.array([False]), 32)
    np.testing.assert_array_equal(found[0], by_pillow(ODD["jpeg"], np.array([0, 0, *sizes[0]]), False, 32, "bilinear"))


def test_threads_end_with_the_decoder() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = threads()
    for _ in range(50):
        NativeDecoder("bilinear", 4)
    decoder = NativeDecoder("bilinear", 4)
    assert threads() == before + 4
    decoder.close()
    assert threads() == before


def test_hostile_bytes_crash_nothing(tmp_path: Path) -> None:
    """Cut and mutated files of every kind under sanitizers; and both builds give the same pixels of what they take."""
    fuzzers = sanitized("native_fuzz.cpp", tmp_path)
    pixels = PHOTOGRAPHS[1][:97, :131]
    files = []
    for number, (sampling, progressive, restarts) in enumerate(
        (sampling, progressive, restarts)
        for sampling in SAMPLINGS
        for progressive in (False, True)
        for restarts in (0, 2)
    ):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(jpeg(pixels, sampling, 80, progressive, restarts))
    files.append(tmp_path / "cmyk.jpg")
    files[-1].write_bytes(encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG"))
    large = [tmp_path / "large.jpg", tmp_path / "progressive.jpg"]  # which are decoded at half of their size
    for file in large:
        file.write_bytes(jpeg(np.tile(pixels, (11, 8, 1)), "420", 60, file.stem == "progressive", 2))
    for rounds, some in ((400, files), (40, large)):
        printed = []
        for fuzzer in fuzzers:
            done = subprocess.run([fuzzer, str(rounds), *some], capture_output=True, text=True, timeout=300)
            assert not done.returncode, done.stderr
            printed.append(done.stdout)
        assert printed[0] == printed[1]
        sized, decoded, _ = printed[0].split()
        assert rounds * len(some) * 0.25 < int(decoded) < int(sized) < rounds * (len(some) + 1)
