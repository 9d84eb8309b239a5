"""The reference decoder on every odd image that people have: as Pillow decodes it, or reported."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from loaders.reference import ReferenceDecoder

PHOTOGRAPH = Image.fromarray(skimage.data.coffee())


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bit() -> Image.Image:
    gray = np.asarray(PHOTOGRAPH.convert("L"), dtype=np.uint16)
    return Image.fromarray(gray * 257)


ODD = {
    "jpeg": encoded(PHOTOGRAPH, "JPEG", quality=90),
    "progressive": encoded(PHOTOGRAPH, "JPEG", progressive=True),
    "gray": encoded(PHOTOGRAPH.convert("L"), "JPEG"),
    "cmyk": encoded(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "png": encoded(PHOTOGRAPH, "PNG"),
    "png with alpha": encoded(PHOTOGRAPH.convert("RGBA"), "PNG"),
    "palette": encoded(PHOTOGRAPH.quantize(64), "PNG"),
    "16-bit": encoded(sixteen_bit(), "PNG"),
    "animated": encoded(PHOTOGRAPH, "GIF", save_all=True, append_images=[PHOTOGRAPH.rotate(90)]),
    "1x1": encoded(PHOTOGRAPH.resize((1, 1)), "JPEG"),
    "6000 px": encoded(PHOTOGRAPH.resize((6000, 40)), "JPEG"),
    "turned by EXIF": encoded(
        PHOTOGRAPH, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    ),
}


def decode(data: bytes, box: list[int], size: int = 64, flip: bool = False, filter: str = "bilinear") -> np.ndarray:
    out = np.zeros((1, size, size, 3), dtype=np.uint8)
    assert not ReferenceDecoder(filter).decode([data], np.array([box]), np.array([flip]), out)
    return out[0]


@pytest.mark.parametrize("name", ODD)
def test_odd_images_come_as_pillow_decodes_them(name: str) -> None:
    data = ODD[name]
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        box = (width // 4, height // 4, width // 4 + max(width // 2, 1), height // 4 + max(height // 2, 1))
        expected = image.convert("RGB").crop(box).resize((64, 64), Image.Resampling.BILINEAR)
    sizes, failures = ReferenceDecoder().sizes([data])
    assert not failures
    assert tuple(sizes[0]) == (height, width)
    pixels = decode(data, [box[1], box[0], box[3] - box[1], box[2] - box[0]])
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_decoding_equals_torchvisions() -> None:
    for name in ("jpeg", "progressive", "gray"):
        tensor = decode_jpeg(torch.frombuffer(bytearray(ODD[name]), dtype=torch.uint8), ImageReadMode.RGB)
        whole = decode(ODD[name], [0, 0, 400, 400], size=400)
        np.testing.assert_array_equal(whole, tensor.permute(1, 2, 0).numpy()[:, :400])


def test_flip_and_filters() -> None:
    box = [10, 20, 300, 500]
    plain, mirrored = decode(ODD["jpeg"], box), decode(ODD["jpeg"], box, flip=True)
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    with Image.open(io.BytesIO(ODD["jpeg"])) as image:
        cubic = image.crop((20, 10, 520, 310)).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode(ODD["jpeg"], box, filter="bicubic"), np.asarray(cubic))


def bomb() -> bytes:
    """A PNG header that promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


BROKEN = {
    "empty": b"",
    "text": b"<html>Not Found</html>",
    "a program": encoded(PHOTOGRAPH, "EPS"),
    "truncated": ODD["jpeg"][: len(ODD["jpeg"]) // 2],
    "cut header": ODD["jpeg"][:30],
    "truncated png": ODD["png"][: len(ODD["png"]) // 2],
    "bomb": bomb(),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_images_are_reported_and_their_neighbours_delivered(name: str) -> None:
    decoder, data = ReferenceDecoder(), [ODD["jpeg"], BROKEN[name], ODD["png"]]
    sizes, failures = decoder.sizes(data)
    boxes = np.concatenate((np.zeros_like(sizes), sizes), axis=1)
    out = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    failures = dict(decoder.decode(data, boxes, np.zeros(3, dtype=bool), out)) | dict(failures)
    assert list(failures) == [1]
    assert failures[1]
    for index, whole in ((0, ODD["jpeg"]), (2, ODD["png"])):
        np.testing.assert_array_equal(out[index], decode(whole, [0, 0, 400, 600], size=32))
