"""Which form of a converted set is read, and which decoder reads it, where neither was asked for; and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch

from loaders import ffcv
from loaders.beton import ConvertedBetonStore
from loaders.cores import usable_memory
from loaders.dali import DaliDecoder
from loaders.device.decoder import DeviceDecoder
from loaders.errors import InputError
from loaders.manifest import Manifest
from loaders.native.decoder import NativeDecoder
from loaders.native.library import why_missing
from loaders.reference import ReferenceDecoder
from loaders.shards import ShardStore
from loaders.types import Decoder, Store

# What may be asked for, as the command line too takes it.
StoreName: TypeAlias = Literal["auto", "tree", "shards", "beton"]
DecoderName: TypeAlias = Literal["auto", "native", "ffcv", "reference", "dali", "dali+native", "device"]
STORES: tuple[str, ...] = get_args(StoreName)[1:]
DECODERS: tuple[str, ...] = get_args(DecoderName)[1:]
_ON_PROCESSORS: dict[str, Callable[[str, int], Decoder]] = {
    "native": NativeDecoder,
    "ffcv": ffcv.FfcvDecoder,
    "reference": ReferenceDecoder,
}


class Choice(NamedTuple):
    """What was chosen, and why: nothing where it was asked for."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def choose_decoder(name: str, interpolation: str, device: torch.device) -> Choice:
    """The decoder that "auto" stands for; any other name stands for itself.

    Args:
        name: of DECODERS, or "auto".
        interpolation: "bilinear", "bicubic" or "area".
        device: that takes the batches.

    Raises:
        InputError: for an unknown name.
    """
    if name == "device" and device.type != "cuda":
        return Choice(name, "slow without a card: native makes the same pixels")
    if name in DECODERS:
        return Choice(name)
    if name != "auto":
        raise InputError(f"decoder {name!r} is unknown: choose auto or {', '.join(DECODERS)}.")
    if interpolation == "area":
        missing = ffcv.why_missing()
        return Choice("reference", missing) if missing else Choice("ffcv", "the one that resizes by area")
    missing = why_missing()
    return Choice("reference", missing) if missing else Choice("native", "the fastest on processors")


def same_pixels(one: str, other: str, interpolation: str) -> bool:
    """Whether two decoders make the same pixels of the same images."""
    return one == other or (interpolation != "area" and {one, other} <= {"native", "reference", "device"})


def keeps_pixels(decoder: str) -> bool:
    """Whether a decoder makes the same pixels of an image that was decoded whole before: the reference's."""
    return decoder in ("native", "reference", "device")


def make_decoder(
    name: str, interpolation: str, num_threads: int, device: torch.device | None = None, store: Store | None = None
) -> Decoder:
    """A decoder by its name.

    Args:
        name: of DECODERS.
        interpolation: "bilinear", "bicubic" or "area".
        num_threads: threads that decode.
        device: that takes the batches; by default the CPU.
        store: for whose largest image a card's memory is taken at once.

    Raises:
        InputError: where it is not installed, or cannot resize so.
    """
    if name in _ON_PROCESSORS:
        return _ON_PROCESSORS[name](interpolation, num_threads)
    device = torch.device("cpu") if device is None else device
    if name == "device":
        return DeviceDecoder(interpolation, num_threads, device)
    shares = name == "dali+native"
    if device.type != "cuda":
        return DaliDecoder(interpolation, num_threads, shares=shares)
    card = torch.cuda.current_device() if device.index is None else device.index
    largest = store.largest if store else (0, 0)
    return DaliDecoder(interpolation, num_threads, card=card, largest=largest, shares=shares)


def choose_store(manifest: Manifest, split: str, store: str) -> tuple[Store, Choice]:
    """The shards or the beton of a whole split.

    Raises:
        InputError: where the split has no such form, or a file is not what manifest and index say.
    """
    entry = manifest.splits[split]
    if store != "auto":
        return _open(manifest, split, store), Choice(store)
    if not (entry.beton and entry.shards):
        only = "beton" if entry.beton else "shards"
        return _open(manifest, split, only), Choice(only, "the set's only form")
    beton = ConvertedBetonStore(manifest, split)
    if not beton.holds_pixels:
        return _open(manifest, split, "shards"), Choice("shards", "the beton holds JPEGs too")
    memory, size = usable_memory(), entry.beton.size
    sizes = f"{size / 2**30:.1f} of {memory / 2**30:.1f} GiB of memory"
    if size > memory / 2:
        return _open(manifest, split, "shards"), Choice("shards", f"the beton's pixels would take {sizes}")
    return beton, Choice("beton", f"pixels, which need no decoding, and take {sizes}")


def _open(manifest: Manifest, split: str, store: str) -> Store:
    return ConvertedBetonStore(manifest, split) if store == "beton" else ShardStore(manifest, split)
