"""The interfaces of the loading path in one place: what a store, a decoder and a loader promise each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from loaders.encodings import Encoded, Encodings

if TYPE_CHECKING:  # what reads stores and converts sets does without torch
    from torch import Tensor

Failures: TypeAlias = Mapping[int, str]  # place in the call -> what is wrong with that sample


class Batch(NamedTuple):
    """One rank's part of a step. B is the loader's batch size, the same for every batch."""

    images: Tensor  # (B, 3, H, W) float, channels_last, normalised; without `augment` uint8 (B, H, W, 3)
    labels: Tensor  # (B,) int64
    partner: Tensor  # (B,) int64: the label mixed in (== labels where nothing is mixed)
    weight: Tensor  # (B,) float32: weight of `labels`; 1 - weight is that of `partner`
    valid: Tensor  # (B,) bool: False on the filling of an epoch's last batch, and on what replaces a bad sample
    ids: Tensor  # (B,) int64: sample ids, on the CPU


class Store(Protocol):
    """Knows where the encoded samples of one split are. Neither shuffles nor draws. Safe to read from many threads."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; a label is an index into them."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) the label of every sample."""

    @property
    def fingerprint(self) -> str:
        """Equal only for the same samples with the same labels in the same order: what a resumed run must find."""

    def __len__(self) -> int:
        """The number of samples, N."""

    def read(self, sample: int) -> Encoded:
        """The encoded bytes or raw pixels of one sample.

        Raises:
            SampleError: where they cannot be read.
            IndexError: where `sample` is not 0 to N - 1; so do `key` and `hint`.
        """

    def locate(self, samples: npt.NDArray[np.int64]) -> Encodings | None:
        """Where in memory the bytes of many samples are; None where each has to be read.

        Raises:
            SampleError, IndexError: as `read`.
        """

    def key(self, sample: int) -> str:
        """What names the sample to a person: a path, or shard and member."""

    def origin(self, sample: int) -> tuple[str, int]:
        """The file that holds the sample, and the place in it: the same by whatever split or subset it was found.

        Raises:
            IndexError: as `read`.
        """

    @property
    def has_checksums(self) -> bool:
        """Whether `verify` has something to compare with."""

    def verify(self, sample: int) -> None:
        """Raises SampleError where the sample's bytes are not those that were converted."""

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width in pixels that no image exceeds; 0, 0 where they are not known."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all samples that are mapped into memory; 0 where none are."""

    def release(self, samples: npt.NDArray[np.int64] | None = None) -> None:
        """Takes what was read out of this process's memory, where it is mapped; it may be read again all the same.

        Args:
            samples: takes only these, and out of the system's cache too: nobody reads them for long.
        """

    def hint(self, samples: npt.NDArray[np.int64]) -> None:
        """Tells the store what will be read soon; it may do nothing."""


def check_sample(sample: int, count: int) -> None:
    """Raises IndexError where a store of `count` samples has no such one: negative ids do not count from the end."""
    if not 0 <= sample < count:
        raise IndexError(f"sample {sample} is outside 0 to {count - 1}: take one of this split's ids.")


def check_samples(samples: npt.NDArray[np.int64], count: int) -> None:
    """As `check_sample`, of many."""
    for end in (samples.min(), samples.max()) if len(samples) else ():
        check_sample(int(end), count)


class Decoder(Protocol):
    """Turns encoded bytes and crop boxes into pixels. Neither shuffles nor draws. Safe to call from many threads.

    It takes a whole batch at a call and works on it in threads of its own. What fails is reported by its place in the
    call, and the others are delivered all the same.
    """

    @property
    def name(self) -> str:
        """As `--decoder` spells it."""

    @property
    def on_device(self) -> bool:
        """Whether `out` is a tensor in a CUDA device's memory, which is written on the current stream."""

    def sizes(self, data: Sequence[Encoded]) -> tuple[npt.NDArray[np.int64], Failures]:
        """Heights and widths in pixels, read from the headers alone: (n, 2). A failed one is 1 by 1."""

    def decode(
        self,
        data: Sequence[Encoded],
        boxes: npt.NDArray[np.int64],
        flips: npt.NDArray[np.bool_],
        out: Any,
        counts: npt.NDArray[np.int64] | None = None,
    ) -> Failures:
        """Decodes each image once, resizes each of its boxes to `out`'s size and mirrors it where asked.

        Args:
            data: n encoded images.
            boxes: (m, 4) top, left, height, width, inside each image; those of an image follow one another.
            flips: (m,) whether to mirror left to right.
            out: (m, size, size, 3) uint8, written in place as RGB: an array, or a tensor where the decoder is on the
                device.
            counts: (n,) boxes of each image, at least 1, m in all; one each where it is None.
        """

    def shares(self) -> Mapping[str, float]:
        """Share of all images so far, 0 to 1, that each one took, by name, where two share the work; else empty."""

    def close(self) -> None:
        """Ends the threads. The decoder cannot be used afterwards."""


class HostDecoder:
    """What decoders have in common that write to host memory and share their work with no other one."""

    on_device = False

    def shares(self) -> Mapping[str, float]:
        return {}


class Loader(Protocol):
    """Batches of one split for one rank. A `with` statement closes it."""

    def __enter__(self) -> Loader: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def classes(self) -> Sequence[str]:
        """Class names; a label is an index into them."""

    @property
    def num_samples(self) -> int:
        """Samples of the split, over all ranks."""

    @property
    def fingerprint(self) -> str:
        """The store's: of its samples, labels and order."""

    @property
    def store(self) -> str:
        """Form of the data set that is read: "tree", "shards" or "beton"."""

    @property
    def decoder(self) -> str:
        """Name of the decoder that makes the pixels."""

    def __len__(self) -> int:
        """Batches an epoch, equal on all ranks."""

    @property
    def choice(self) -> str:
        """Store, decoder and threads, with the reason where they were chosen by themselves, for people to read."""

    def shares(self) -> Mapping[str, float]:
        """The decoder's."""

    @property
    def bad(self) -> Mapping[str, str]:
        """Samples that were replaced so far, and what is wrong with each, by their keys."""

    def epoch(self, epoch: int, start: int = 0, *, size: int | None = None) -> Iterator[Batch]:
        """The batches of an epoch from batch `start` on, with images of `size` pixels a side."""

    def ids(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """(G,) ids of the samples of a step, over all ranks, in order."""

    def key(self, sample: int) -> str:
        """The store's name of a sample."""

    def seconds(self) -> Mapping[str, float]:
        """Seconds worked and waited since the loader was opened, by stage."""

    def close(self) -> None:
        """Ends every thread. The loader cannot be used afterwards."""
