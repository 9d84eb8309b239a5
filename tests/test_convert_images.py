"""What is stored of an image, held to what Pillow makes of the same bytes."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convert.images import BadImage, ImagePolicy, jpeg_header, store
from loaders import InputError

ORIGINAL = ImagePolicy.parse("original")
BILINEAR = Image.Resampling.BILINEAR
# By libturbojpeg 2.1 with TJ_ARITHMETIC=1, 24 x 16: red is 10 x, green 15 y, blue 255 - 5 x - 5 y.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYU"
    "GBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAQABgDAREA"
    "AhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AN1+F+E1MKYGD9rgM0cqQWCpcOFo+zhG7/IdDHzscVXb2O3X0KwAI2caX+B+LFlMVS2e4vyY"
    "r1aTVEHUGZrIOPKggsIQm8r3hAYMf7/SVHmdnUjij/3I/9k="
)


def photograph(height: int = 300, width: int = 400) -> Image.Image:
    return Image.fromarray(skimage.data.coffee()[:height, :width])


def large_photograph() -> Image.Image:
    """2400 x 1600, as sharp as its parts."""
    return Image.fromarray(np.tile(skimage.data.coffee(), (4, 4, 1)))


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(decoded(data).convert("RGB")).astype(np.int64)


def oriented() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated
    return encoded(photograph(60, 90), exif=exif)


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF holds a small JPEG, as cameras write them."""
    plain, small = encoded(photograph(48, 64)), encoded(photograph(10, 16))
    exif = b"Exif\0\0" + small
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def png_header(width: int, height: int) -> bytes:
    """A whole PNG of that size, but for most of its pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000)))]
    body = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def with_frame(data: bytes, offset: int, value: bytes) -> bytes:
    """A baseline JPEG with other bytes in its frame header: its marker is at 0, its bits at 4, its height at 5."""
    at = data.index(b"\xff\xc0") + offset
    return data[:at] + value + data[at + len(value) :]


PLAIN: dict[str, Callable[[], bytes]] = {
    "baseline": lambda: encoded(photograph()),
    "progressive": lambda: encoded(photograph(), progressive=True),
    "gray": lambda: encoded(photograph().convert("L")),
    "oriented": oriented,
    "thumbnail": with_thumbnail,
    "restarts": lambda: encoded(photograph(), restart_marker_blocks=4),
    "trailer": lambda: encoded(photograph()) + bytes(10_000),  # what some cameras append
}


@pytest.mark.parametrize("name", PLAIN)
def test_original_passes_jpegs_through(name: str) -> None:
    data = PLAIN[name]()
    image, stored = decoded(data), store(data, ORIGINAL)
    assert stored.data == data
    assert (stored.height, stored.width, stored.repaired) == (image.height, image.width, None)
    components = 1 if name == "gray" else 3
    assert jpeg_header(data) == (image.height, image.width, components)
    if name == "oriented":
        assert decoded(stored.data).getexif()[0x0112] == 6
        assert (stored.height, stored.width) == (60, 90)


@pytest.mark.parametrize("rule", ["short_side=100", "max_side=100"])
def test_an_oriented_image_is_not_rotated(rule: str) -> None:
    data = encoded(photograph(200, 300), exif=decoded(oriented()).getexif())
    stored = store(data, ImagePolicy.parse(rule, 95))
    assert stored.height < stored.width
    assert stored.repaired is None
    # The orientation is gone: who follows it would rotate these pixels, and who does not would not.
    assert 0x0112 not in decoded(stored.data).getexif()
    expected = photograph(200, 300).resize((stored.width, stored.height), BILINEAR)
    assert np.abs(rgb(stored.data) - np.asarray(expected)).mean() < 3


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("short_side=400", (500, 800), (400, 640)),
        ("short_side=400", (800, 500), (640, 400)),
        ("short_side=400", (399, 3000), (399, 3000)),
        ("short_side=400", (401, 601), (400, 600)),  # 599.5 rounds to even
        ("max_side=400", (500, 800), (250, 400)),
        ("max_side=400", (401, 1), (400, 1)),
        ("max_side=32", (4000, 3), (32, 1)),  # never nothing
        ("max_side=400", (400, 400), (400, 400)),
        ("original", (9000, 9000), (9000, 9000)),
    ],
)
def test_sizes(rule: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ImagePolicy.parse(rule).size(*size) == expected


@given(
    rule=st.sampled_from(["short_side", "max_side"]),
    side=st.integers(32, 2000),
    size=st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
)
def test_sizes_never_grow_and_keep_their_shape(rule: str, side: int, size: tuple[int, int]) -> None:
    found = ImagePolicy.parse(f"{rule}={side}").size(*size)
    bounded = min if rule == "short_side" else max
    assert bounded(found) == min(side, bounded(size))
    assert all(1 <= new <= old for new, old in zip(found, size, strict=True))
    scale = min(1.0, side / bounded(size))
    assert all(abs(new - old * scale) <= 0.5 or new == 1 for new, old in zip(found, size, strict=True))


@pytest.mark.parametrize("rule", ["short_side=300", "short_side=301", "max_side=400", "max_side=5000"])
def test_a_small_jpeg_passes_through(rule: str) -> None:
    for data in (encoded(photograph()), encoded(photograph(), progressive=True), encoded(photograph().convert("L"))):
        assert store(data, ImagePolicy.parse(rule)).data == data


@pytest.mark.parametrize(
    ("rule", "make", "size", "most"),
    [
        # Less than twice smaller: a resize that is within a level of Pillow's.
        ("short_side=299", photograph, (399, 299), 0.3),
        ("short_side=150", photograph, (200, 150), 0.3),
        ("short_side=700", large_photograph, (1050, 700), 0.3),
        # Partly in the DCT domain.
        ("short_side=201", large_photograph, (301, 201), 1.0),
        ("short_side=400", large_photograph, (600, 400), 1.0),
        ("max_side=500", large_photograph, (500, 333), 1.0),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_smaller_images_are_near_pillows_own(
    rule: str, make: Callable[[], Image.Image], size: tuple[int, int], most: float, progressive: bool
) -> None:
    data = encoded(make(), quality=95, progressive=progressive)
    stored = store(data, ImagePolicy.parse(rule, 100))
    assert (stored.width, stored.height) == size == decoded(stored.data).size
    assert (stored.data[:2], stored.repaired) == (b"\xff\xd8", None)

    def difference(filter: Image.Resampling) -> float:
        expected = encoded(decoded(data).resize(size, filter), quality=100)
        return float(np.abs(rgb(stored.data) - rgb(expected)).mean())

    assert difference(BILINEAR) <= most
    assert difference(Image.Resampling.NEAREST) > 2 * most


def test_gray_is_resized_as_gray() -> None:
    stored = store(encoded(photograph().convert("L")), ImagePolicy.parse("short_side=100", 100))
    pixels = rgb(stored.data)
    assert np.ptp(pixels, axis=2).max() <= 1
    expected = photograph().convert("L").resize((133, 100), BILINEAR)
    assert np.abs(pixels[..., 0] - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize("quality", [1, 50, 75, 90, 100])
def test_quality_decides_the_tables(quality: int) -> None:
    found = decoded(store(encoded(photograph()), ImagePolicy.parse("short_side=100", quality)).data)
    expected = decoded(encoded(photograph(), quality=quality))
    assert found.quantization == expected.quantization


def with_alpha() -> Image.Image:
    image = photograph().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def animation() -> bytes:
    frames = [photograph().quantize(64), photograph().rotate(180).quantize(64)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (lambda: encoded(photograph(), "PNG"), "PNG RGB"),
    "gray PNG": (lambda: encoded(photograph().convert("L"), "PNG"), "PNG L"),
    "CMYK": (lambda: encoded(photograph().convert("CMYK"), quality=95), "JPEG CMYK"),
    "palette": (lambda: encoded(photograph().quantize(256), "PNG"), "PNG P"),
    "bilevel": (lambda: encoded(photograph().convert("1"), "PNG"), "PNG 1"),
    "alpha": (lambda: encoded(with_alpha(), "PNG"), "PNG RGBA"),
    "animation": (animation, "GIF P"),
    "WebP": (lambda: encoded(photograph(), "WEBP", lossless=True), "WEBP RGB"),
    "TIFF": (lambda: encoded(photograph(), "TIFF"), "TIFF RGB"),
    "arithmetic": (lambda: ARITHMETIC, "JPEG RGB"),
}


@pytest.mark.parametrize("rule", ["original", "short_side=100"])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_become_rgb_jpegs(name: str, rule: str) -> None:
    make, note = ODD[name]
    data = make()
    policy = ImagePolicy.parse(rule)
    stored = store(data, policy)
    assert stored.repaired is not None
    # Pillow opens a GIF's first frame as P or RGB, as its palette is.
    assert stored.repaired == note or (name == "animation" and stored.repaired.startswith("GIF "))
    source = decoded(data).convert("RGB")
    size = policy.size(source.height, source.width)
    image = decoded(stored.data)
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert (image.height, image.width) == (stored.height, stored.width) == size
    assert jpeg_header(stored.data) == (*size, 3)
    expected = source if size == (source.height, source.width) else source.resize(size[::-1], BILINEAR)
    # Dither is the hardest on JPEG.
    assert np.abs(rgb(stored.data) - np.asarray(expected)).mean() < (8 if name == "bilevel" else 3)
    if name == "alpha":
        assert np.abs(rgb(stored.data) - np.asarray(expected)).max() < 120  # and not black or white


def test_arithmetic_coding_is_decoded() -> None:
    y, x = np.mgrid[:16, :24]
    drawn = np.stack([10 * x, 15 * y, 255 - 5 * x - 5 * y], axis=-1)
    assert np.abs(rgb(store(ARITHMETIC, ORIGINAL).data) - drawn).mean() < 3


def test_sixteen_bits_keep_their_shades() -> None:
    shades = np.asarray(photograph().convert("L")).astype(np.uint16)
    data = encoded(Image.fromarray(shades * 257), "PNG")
    assert decoded(data).mode == "I;16"
    for policy, size in ((ORIGINAL, (400, 300)), (ImagePolicy.parse("short_side=100"), (133, 100))):
        stored = store(data, policy)
        assert stored.repaired == "PNG I;16"
        expected = np.asarray(photograph().convert("L").resize(size, BILINEAR))
        assert np.abs(rgb(stored.data) - expected[..., None]).mean() < 2


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty", lambda: b"", "empty"),
        ("text", lambda: b"<html>404 Not Found</html>\n" * 40, "no image of a known format"),
        ("cut", lambda: encoded(photograph())[:-2], "cut short"),
        ("half", lambda: encoded(photograph())[:9000], "cut short"),
        ("filled with zeros", lambda: encoded(photograph())[:9000] + bytes(9000), "cut short"),
        ("cut after its thumbnail", lambda: with_thumbnail()[:-100], "cut short"),
        ("headers only", lambda: encoded(photograph())[:300], "truncated|Truncated"),
        ("half a PNG", lambda: encoded(photograph(), "PNG")[:9000], "truncated"),
        ("PNG bomb", lambda: png_header(60_000, 60_000), "limit"),
        ("PNG just too large", lambda: png_header(10_000, 10_000), "limit"),
        ("JPEG bomb", lambda: with_frame(encoded(photograph()), 5, struct.pack(">HH", 60_000, 60_000)), "limit"),
        ("12 bits", lambda: with_frame(encoded(photograph()), 4, b"\x0c"), "no image"),
        ("lossless", lambda: with_frame(encoded(photograph()), 0, b"\xff\xc3"), "broken data"),
        ("no height", lambda: with_frame(encoded(photograph()), 5, b"\0\0"), "."),
        ("PostScript", lambda: encoded(photograph(), "EPS"), "no image of a known format"),
    ],
)
def test_what_cannot_be_used_is_refused(name: str, data: Callable[[], bytes], reason: str) -> None:
    del name
    content = data()
    for rule in ("original", "short_side=100", "max_side=100"):
        with pytest.raises(BadImage, match=reason) as first:
            store(content, ImagePolicy.parse(rule))
        with pytest.raises(BadImage) as second:
            store(bytes(bytearray(content)), ImagePolicy.parse(rule))
        # It goes to quarantine.jsonl, which is the same at every start: no address, one line.
        assert str(first.value) == str(second.value)
        assert str(first.value)
        assert "\n" not in str(first.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bombs = png_header(10_000, 10_000), with_frame(encoded(photograph()), 5, struct.pack(">HH", 60_000, 60_000))

    def load(self: Image.Image) -> None:
        raise AssertionError(f"{self.size} is decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for data in bombs:
        with pytest.raises(BadImage, match="limit"):
            store(data, ImagePolicy.parse("short_side=100"))


@pytest.mark.filterwarnings("error")
def test_pillow_warns_of_nothing() -> None:
    """Its warnings would stand between the lines of a command, from every process."""
    with pytest.raises(BadImage):
        store(png_header(10_000, 10_000), ORIGINAL)
    palette = encoded(photograph().quantize(16), "PNG", transparency=bytes(range(16)))
    assert store(palette, ORIGINAL).repaired == "PNG P"


@pytest.mark.parametrize("name", ["baseline", "progressive", "gray", "thumbnail"])
def test_no_beginning_of_a_jpeg_is_taken_for_a_whole_one(name: str) -> None:
    small = photograph(24, 32)
    data = {
        "baseline": encoded(small),
        "progressive": encoded(small, progressive=True),
        "gray": encoded(small.convert("L")),
        "thumbnail": with_thumbnail(),
    }[name]
    for length in range(len(data)):
        with pytest.raises(BadImage):
            store(data[:length], ORIGINAL)


SMALL = [
    encoded(photograph(40, 56)),
    encoded(photograph(40, 56), progressive=True),
    encoded(photograph(40, 56).convert("L")),
    with_thumbnail(),
    encoded(photograph(40, 56).convert("CMYK")),
]


@given(data=st.data())
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:.*EXIF.*:UserWarning")
def test_damaged_jpegs_are_stored_or_bad(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SMALL)))
    # Mostly in the headers, which is what is parsed.
    for place in data.draw(st.lists(st.integers(0, 700) | st.integers(0, len(damaged) - 1), max_size=6)):
        damaged[min(place, len(damaged) - 1)] = data.draw(
            st.integers(0, 255) | st.sampled_from([0xFF, 0xD9, 0xDA, 0xC0])
        )
    end = data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))
    content = bytes(damaged[:end])
    with contextlib.suppress(BadImage):
        stored = store(content, ORIGINAL)
        header = jpeg_header(stored.data)
        assert header is not None
        assert header[:2] == (stored.height, stored.width)
    # A header of 60,000 x 1,400 is within the limit, and would take seconds to decode.
    header = jpeg_header(content)
    if header is None or header[0] * header[1] < 1_000_000:
        with contextlib.suppress(BadImage):
            stored = store(content, ImagePolicy.parse("max_side=32"))
            assert max(decoded(stored.data).size) <= 32
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG",))
    except Exception:  # Pillow raises nearly anything
        return
    if header is not None:
        assert header[:2] == (image.height, image.width)


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "trailer"])
def test_the_header_is_pillows(name: str) -> None:
    for height, width in ((1, 1), (17, 33), (300, 400)):
        image = photograph(height, width)
        data = encoded(image.convert("L") if name == "gray" else image, progressive=name == "progressive")
        assert jpeg_header(data) == (height, width, 1 if name == "gray" else 3)


@pytest.mark.parametrize(
    ("text", "quality", "message"),
    [
        ("raw", 90, "raw pixels go into a .beton"),
        ("short_side", 90, "is unknown"),
        ("short_side=-400", 90, "is unknown"),
        ("short_side=10", 90, "short_side=10 is impossible: take 32 to 65535"),
        ("original", 0, "quality 0 is impossible: take 1 to 100"),
    ],
)
def test_impossible_policies_are_refused(text: str, quality: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImagePolicy.parse(text, quality)
