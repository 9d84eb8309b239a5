"""Decoded images that stay in memory, so that one that comes again costs no more than its resize.

    KeptPixels    whole images by where their bytes are: one for all loaders of a process, whose splits share images
    Keeping       what one loader knows of them, in arrays by sample, so that a batch of kept images costs no call each

The pixels are the reference decoder's, which the native and the device decoder make too; so a batch is the same, bit
for bit, whether its images were kept or not. Nothing that is kept is given up before the last loader is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from loaders.cores import local_ranks, usable_memory
from loaders.encodings import Encoded, Encodings, joined, of_images
from loaders.errors import InputError
from loaders.reference import open_image
from loaders.types import Store

_SHARE = 3  # of the memory, what is taken by default is one part in so many
_UNKNOWN, _KEPT, _AS_IS = 0, 1, 2

Origin: TypeAlias = tuple[str, int, bool]  # as `Store.origin`, and whether the bytes were held to their checksum
_Ints: TypeAlias = npt.NDArray[np.int64]
_Pixels: TypeAlias = npt.NDArray[np.uint8]


class KeptPixels:
    """Whole decoded images, up to a limit; what comes when it is reached is not kept. Safe to use from many threads.

    A file that is written anew while this process runs is not noticed.

    Args:
        limit_bytes: that the pixels may take, three bytes each.

    Raises:
        InputError: for a limit below 1.
    """

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise InputError(f"a limit of {limit_bytes} bytes keeps no pixels: take more, or keep none.")
        self.limit_bytes = limit_bytes
        self._pixels: dict[Origin, _Pixels] = {}
        self._reserved: dict[Origin, int] = {}
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_images(self) -> int:
        """Images that are kept."""
        return len(self._pixels)

    @property
    def num_bytes(self) -> int:
        """Bytes of what is kept, and of what is being decoded to be kept."""
        return self._num_bytes

    def get(self, origin: Origin) -> _Pixels | None:
        """(H, W, 3), or None where they are not kept."""
        return self._pixels.get(origin)

    def reserve(self, origin: Origin, num_bytes: int) -> bool | None:
        """Room for an image: True where it is the caller's to `put` or to `give_up`, False where there is none left,
        None where another thread has reserved or kept the same."""
        with self._lock:
            if origin in self._reserved or origin in self._pixels:
                return None
            if self._num_bytes + num_bytes > self.limit_bytes:
                return False
            self._reserved[origin] = num_bytes
            self._num_bytes += num_bytes
            return True

    def put(self, origin: Origin, pixels: _Pixels) -> None:
        """Keeps what room was reserved for. Raises ValueError where it takes more or less."""
        with self._lock:
            if pixels.nbytes != self._reserved[origin]:
                raise ValueError(f"{pixels.nbytes} bytes where {self._reserved[origin]} were reserved")
            del self._reserved[origin]
            self._pixels[origin] = pixels

    def give_up(self, origin: Origin) -> None:
        """Frees what room was reserved for."""
        with self._lock:
            self._num_bytes -= self._reserved.pop(origin)


def kept_pixels(gb: float | None) -> KeptPixels | None:
    """What keeps pixels in so much memory.

    Args:
        gb: billions of bytes; 0 for nothing, None for a third of what this process may use, shared among the ranks of
            this machine.

    Raises:
        InputError: for less than nothing, or more than all memory.
    """
    if gb is None:
        return KeptPixels(usable_memory() // _SHARE // local_ranks())
    if not gb >= 0:
        raise InputError(f"keep_gb {gb:g} is impossible: take 0 for none, or more.")
    if gb * 1e9 > usable_memory():
        raise InputError(f"keep_gb {gb:g} is more than the memory of {usable_memory() / 1e9:.1f} GB: take less of it.")
    return KeptPixels(round(gb * 1e9)) if gb else None


class Keeping:
    """Which images of one store are kept. Safe to use from many threads.

    Args:
        store: whose images are kept as they come.
        pixels: where.
        verified: whether what comes is held to its checksum; what was not is not handed to those who ask for it.
        below: images whose sides both have at least so many pixels are not kept; None: any are.
        threads: that decode.
    """

    def __init__(
        self, store: Store, pixels: KeptPixels, *, verified: bool, below: int | None, threads: Executor
    ) -> None:
        self._store, self._pixels, self._verified = store, pixels, verified
        self._below, self._threads = below, threads
        self._states = np.full(len(store), _UNKNOWN, dtype=np.int8)
        self._addresses = np.zeros(len(store), dtype=np.uint64)
        self._shapes = np.zeros((len(store), 2), dtype=np.int64)

    def known(self, ids: _Ints) -> npt.NDArray[np.bool_]:
        """(n,) which samples' pixels are kept."""
        for sample in ids[self._states[ids] == _UNKNOWN].tolist():
            pixels = self._pixels.get(self._origin(sample))
            if pixels is not None and self._is_large(*pixels.shape[:2]):
                self._states[sample] = _AS_IS  # kept for a loader with another decoder
            elif pixels is not None:
                self._note(sample, pixels)
        known: npt.NDArray[np.bool_] = self._states[ids] == _KEPT
        return known

    def encodings(self, ids: _Ints) -> Encodings:
        """The pixels of samples that are all kept."""
        shapes = self._shapes[ids]
        lengths = (3 * shapes[:, 0] * shapes[:, 1]).astype(np.uint64)
        return Encodings(lambda place: self._get(int(ids[place])), self._pixels, self._addresses[ids], lengths, shapes)

    def keep(self, ids: _Ints, data: Sequence[Encoded]) -> Sequence[Encoded]:
        """Decodes what is not known yet, as far as there is room.

        Args:
            ids: (n,) samples.
            data: n of them as they were read, or kept.

        Returns:
            n of them: pixels where they are kept, and else as they were. What fails is left to the decoder to report.
        """
        unknown = np.flatnonzero(self._states[ids] == _UNKNOWN)
        if not len(unknown):
            return data
        images = of_images(data)
        for _ in self._threads.map(lambda place: self._decode(int(ids[place]), images, int(place)), unknown):
            pass
        fresh = unknown[self._states[ids[unknown]] == _KEPT]
        if not len(fresh):
            return images
        rest = np.delete(np.arange(len(ids)), fresh)
        return joined([(fresh, self.encodings(ids[fresh])), (rest, images.some(rest))])

    def _decode(self, sample: int, images: Encodings, place: int) -> None:
        origin, room = self._origin(sample), None
        try:
            encoded = images[place]
            if isinstance(encoded, np.ndarray):  # the store's own pixels, which need no decoding
                self._states[sample] = _AS_IS
                return
            with open_image(encoded) as image:
                large = self._is_large(image.height, image.width)
                room = False if large else self._pixels.reserve(origin, 3 * image.width * image.height)
                if room:
                    pixels = np.asarray(image.convert("RGB"))
                    self._pixels.put(origin, pixels)
                    self._note(sample, pixels)
                elif room is False:
                    self._states[sample] = _AS_IS
        # Pillow's plug-ins raise nearly anything on hostile bytes, and a file may be cut meanwhile.
        except Exception:
            if room:
                self._pixels.give_up(origin)
            self._states[sample] = _AS_IS

    def _is_large(self, height: int, width: int) -> bool:
        return self._below is not None and min(height, width) >= self._below

    def _note(self, sample: int, pixels: _Pixels) -> None:
        self._addresses[sample], self._shapes[sample] = pixels.ctypes.data, pixels.shape[:2]
        self._states[sample] = _KEPT  # last: other threads then read what stands above

    def _get(self, sample: int) -> _Pixels:
        pixels = self._pixels.get(self._origin(sample))
        assert pixels is not None
        return pixels

    def _origin(self, sample: int) -> Origin:
        return (*self._store.origin(sample), self._verified)
