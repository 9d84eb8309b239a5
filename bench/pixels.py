"""A store of raw pixels in memory, as a `.beton` of raw pixels holds them, for machines where FFCV cannot write one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from loaders import open_store
from loaders.encodings import Encodings


class PixelStore:
    """Images of a tree's training split, their longer side made smaller, each held once and shown several times.

    Args:
        tree: where they are.
        max_side: of an image in pixels.
        count: images to hold, from the first on.
        times: how often each is one of the samples.
    """

    has_checksums = False
    fingerprint = "in memory"

    def __init__(self, tree: Path, max_side: int, count: int, times: int) -> None:
        store = open_store(tree, "train")
        count = min(count, len(store))
        self._images = [_small(Path(store.key(sample)), max_side) for sample in range(count)]
        self.classes: Sequence[str] = store.classes
        self.labels = np.tile(store.labels[:count], times)
        self._addresses = np.array([image.ctypes.data for image in self._images], dtype=np.uint64)
        self._shapes = np.array([image.shape[:2] for image in self._images], dtype=np.int64)
        self.largest = int(self._shapes[:, 0].max()), int(self._shapes[:, 1].max())
        self.num_bytes = 0  # nothing that is mapped

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, sample: int) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return self._images[sample % len(self._images)]

    def locate(self, samples: npt.NDArray[np.int64]) -> Encodings:
        """Where they are in memory."""
        places = samples % len(self._images)
        shapes = self._shapes[places]
        lengths = (3 * shapes.prod(axis=1)).astype(np.uint64)
        return Encodings(lambda place: self.read(int(samples[place])), self, self._addresses[places], lengths, shapes)

    def origin(self, sample: int) -> tuple[str, int]:
        """No file's, but its own."""
        return f"{id(self)}", sample % len(self._images)

    def key(self, sample: int) -> str:
        """Its number."""
        return str(sample)

    def verify(self, sample: int) -> None:
        """Nothing to compare with."""

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        """Nothing is mapped."""

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        """Nothing is read."""


def _small(path: Path, max_side: int) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        image.thumbnail((max_side, max_side))
        return np.array(image.convert("RGB"))
