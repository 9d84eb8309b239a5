"""What becomes of one image: its bytes as they are where they serve, else a JPEG that every decoder reads."""

from __future__ import annotations

import io
import re
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from loaders.errors import InputError, one_line
from loaders.reference import FORMATS, MAX_PIXELS

REPAIR_QUALITY = 95
_RULE = re.compile(r"(short_side|max_side)=([0-9]+)")
_START_OF_FRAME = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive: what every decoder here reads
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_END_OF_IMAGE = b"\xff\xd9"


class BadImage(Exception):
    """An image that cannot be converted; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePolicy:
    """What is stored of an image.

    Attributes:
        rule: "original", or which side is bounded: "short_side" or "max_side".
        side: the bound in pixels; 0 with "original".
        quality: of what is encoded anew, 1 to 100.
    """

    rule: Literal["original", "short_side", "max_side"]
    side: int = 0
    quality: int = 90

    def __post_init__(self) -> None:
        if self.rule != "original" and not 32 <= self.side <= 65_535:
            raise InputError(f"{self.rule}={self.side} is impossible: take 32 to 65535 pixels.")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality {self.quality} is impossible: take 1 to 100.")

    @classmethod
    def parse(cls, text: str, quality: int = 90) -> ImagePolicy:
        """From "original", "short_side=N" or "max_side=N".

        Raises:
            InputError: for another text or an impossible side.
        """
        if text == "original":
            return cls(rule="original", quality=quality)
        found = _RULE.fullmatch(text)
        if text == "raw":
            raise InputError(
                "raw pixels go into a .beton: write --formats beton --beton raw, with --images for the size."
            )
        if not found:
            raise InputError(f"images {text!r} is unknown: write original, short_side=400 or max_side=500.")
        rule: Literal["short_side", "max_side"] = "short_side" if found[1] == "short_side" else "max_side"
        return cls(rule=rule, side=int(found[2]), quality=quality)

    def __str__(self) -> str:
        return self.rule if self.rule == "original" else f"{self.rule}={self.side}"

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image is stored with: never larger than it is."""
        bounded = {"original": 0, "short_side": min(height, width), "max_side": max(height, width)}[self.rule]
        if bounded <= self.side or self.rule == "original":
            return height, width
        scale = self.side / bounded
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An image as a converted set holds it.

    Attributes:
        data: a JPEG of 8 bits, gray or YCbCr.
        height: in pixels.
        width: in pixels.
        repaired: what the original was, where no decoder could be expected to read it; None otherwise.
    """

    data: bytes
    height: int
    width: int
    repaired: str | None = None


def store(data: bytes, policy: ImagePolicy) -> Stored:
    """The image as the policy stores it.

    A plain JPEG that is small enough passes through untouched. Of such a file the structure is checked and not the
    pixels: only a decode would show damage inside the scan. Where libjpeg only warns of damage, as of a scan that ends
    early and has an end, the image is taken as every loader takes it. EXIF orientation is ignored; a TIFF's is no EXIF
    and counts, as wherever Pillow opens one.

    Raises:
        BadImage: where it cannot be decoded, or is larger than any image of these sets may be.
    """
    if not data:
        raise BadImage("the file is empty")
    header = _parse(data)
    if header is not None:
        height, width, components, scan = header
        _check_pixels(height, width)
        if components in (1, 3):
            # Looked for from the scan on, which holds no such bytes: a thumbnail in front of it has an end of its own.
            if data.rfind(_END_OF_IMAGE, scan) < 0:
                raise BadImage("the JPEG is cut short: its end is missing")
            if policy.size(height, width) == (height, width):
                return Stored(data=data, height=height, width=width)
            return _encode(data, policy, None)
    return _encode(data, policy, _oddity(data))


def jpeg_header(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and number of components of an 8-bit Huffman-coded JPEG; None for whatever is none."""
    header = _parse(data)
    return None if header is None else header[:3]


def _parse(data: bytes) -> tuple[int, int, int, int] | None:
    """As `jpeg_header`, and where the first scan begins."""
    size: tuple[int, int, int] | None = None
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0x00:  # no marker but an escaped 0xFF, which has no business here
            return None
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker == 0xDA:
            return None if size is None else (*size, at)
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _START_OF_FRAME:
            if size is not None or at + 10 > len(data):
                return None
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if bits != 8 or not height or not width:
                return None
            size = (height, width, components)
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xD9:
            return None
        at += 2 + length
    return None


def _encode(data: bytes, policy: ImagePolicy, repaired: str | None) -> Stored:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is noted as repaired, or refused
            encoded, height, width = _shrink(data, policy) if repaired is None else _repair(data, policy)
    except BadImage:
        raise
    except UnidentifiedImageError as error:  # its own message holds an address, another one at every start
        raise BadImage("its content is no image of a known format") from error
    except Exception as error:  # Pillow's plug-ins and torch raise nearly anything on hostile bytes
        raise BadImage(one_line(error) or type(error).__name__) from error
    return Stored(data=encoded, height=height, width=width, repaired=repaired)


def _shrink(data: bytes, policy: ImagePolicy) -> tuple[bytes, int, int]:
    """A smaller JPEG of a plain one: antialiased bilinear, within a level of Pillow's. Also its height and width."""
    # Here, because shards of untouched bytes need neither, and importing them takes seconds in every process.
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

    header = jpeg_header(data)
    assert header is not None, "a plain JPEG"
    height, width = policy.size(*header[:2])
    if header[0] >= 2 * height:
        with opened(data) as image:
            # Scaling in the DCT domain first, to twice the size at least: an antialiased resize follows.
            image.draft("RGB", (2 * width, 2 * height))
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    else:
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    small = torch.nn.functional.interpolate(pixels[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return encode_jpeg(small.contiguous(), policy.quality).numpy().tobytes(), height, width


def _repair(data: bytes, policy: ImagePolicy) -> tuple[bytes, int, int]:
    """An RGB JPEG of anything that Pillow reads, with its height and width."""
    with opened(data) as image:
        height, width = policy.size(image.height, image.width)
        pixels = _rgb(image)
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=max(policy.quality, REPAIR_QUALITY), subsampling=0)
    return out.getvalue(), height, width


def opened(data: bytes | memoryview) -> Image.Image:
    """The image, whose pixels are not decoded yet, by Pillow's plug-ins for photographs alone.

    Raises:
        BadImage: where its header claims more pixels than any image of these sets has.
        Exception: nearly any, where Pillow cannot open it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is noted as repaired, or refused
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_pixels(image.height, image.width)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers, whose range nobody knows")
    if image.mode.startswith("I"):  # 16 bits, where Pillow cuts at 255, which leaves white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise BadImage("its pixels are numbers of 32 bits, whose range nobody knows")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _oddity(data: bytes) -> str:
    """What an image is that no plain JPEG is: its format and mode, as Pillow names them."""
    try:
        with opened(data) as image:
            return f"{image.format} {image.mode}"
    except Exception:
        return "unknown"


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage(f"its header claims {width} x {height} pixels, more than the limit of {MAX_PIXELS}")
