"""One batch from ids to pixels, with what cannot be read or decoded replaced as far as the budget allows.

A place of the batch whose sample fails shows the one of 1, 2, 4, 8, ... ids further that does not: far away, because a
whole shard may be missing. The draws stay those of the place, so that the rest of the batch is as it would have been.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders import draws
from loaders.crops import CropPolicy
from loaders.encodings import Encoded, joined, of_images
from loaders.errors import SampleError
from loaders.kept import Keeping
from loaders.stages import StageClock
from loaders.types import Decoder, Failures, Store

_READ_AT_ONCE = 16  # samples

_Ints: TypeAlias = npt.NDArray[np.int64]
_Pixels: TypeAlias = Any  # uint8, of the kind that the decoder writes


class BadSamples:
    """Samples that could not be read or decoded, up to a budget.

    Args:
        max_bad: largest share of the split's samples, 0 to 1.
        num_samples: of the split.
    """

    def __init__(self, max_bad: float, num_samples: int) -> None:
        self._max_bad, self._num_samples = max_bad, num_samples
        self._allowed = math.floor(max_bad * num_samples + 1e-9)  # 0.29 of 100 are 29, whatever floats say
        self._found: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, key: str, reason: str) -> None:
        """Counts a sample, however often it comes. Raises SampleError where it is one too many."""
        with self._lock:
            found = len(self._found.keys() | {key})
            if found <= self._allowed:
                self._found[key] = reason
                return
        if self._allowed:
            reason += f"; {found:,} samples cannot, where max_bad {self._max_bad:g} of {self._num_samples:,} allows "
            reason += f"{self._allowed:,}"
        raise SampleError(key, reason)

    def found(self) -> Mapping[str, str]:
        """What is wrong with each so far, by its key."""
        with self._lock:
            return dict(self._found)


class BatchDecoding:
    """Reads and decodes the samples of batches. Safe to call from many threads.

    Args:
        store: where they are.
        decoder: makes the pixels.
        crops: which part of each is shown.
        bad: counts the samples that fail.
        verify: whether every image is held to its checksum, which the store then must have.
        readers: threads that read where a store has no place in memory to name.
        keeping: which images are kept, and keeps others; None where none are.
        clock: counts "read" and "decode".
    """

    def __init__(
        self,
        store: Store,
        decoder: Decoder,
        crops: CropPolicy,
        bad: BadSamples,
        *,
        verify: bool,
        readers: Executor,
        keeping: Keeping | None,
        clock: StageClock,
    ) -> None:
        self._store, self._decoder, self._crops, self._bad = store, decoder, crops, bad
        self._verify, self._readers, self._keeping, self._clock = verify, readers, keeping, clock

    def run(self, seed: int, epoch: int, ids: _Ints, keys: _Ints, out: _Pixels, *, train: bool) -> _Ints:
        """Fills `out` with the samples' pixels. One that stands there more than once is read and decoded once.

        Args:
            seed: of the draws.
            epoch: likewise.
            ids: (B,) whose pixels are asked for.
            keys: (B,) of their boxes and flips.
            out: (B, size, size, 3) uint8, written in place: an array, or a tensor where the decoder is on the device.
            train: random crops and flips, or central crops.

        Returns:
            (B,) whose pixels they are: `ids`, but for those that were replaced.

        Raises:
            SampleError: for a sample that is beyond the budget, or that nothing can replace.
        """
        failures = self._fill(seed, epoch, keys, ids, out, train)
        if not failures:
            return ids
        shown = ids.copy()
        for place, reason in sorted(failures.items()):
            this = slice(place, place + 1)
            self._bad.add(self._store.key(int(ids[place])), reason)
            shown[place] = self._replace(seed, epoch, keys[this], ids[this], out[this], train)
        return shown

    def _replace(self, seed: int, epoch: int, key: _Ints, sample: _Ints, out: _Pixels, train: bool) -> int:
        reason = "its split has no other sample"
        for power in range((len(self._store) - 1).bit_length()):
            other = (sample + 2**power) % len(self._store)
            failures = self._fill(seed, epoch, key, other, out, train)
            if not failures:
                return int(other[0])
            reason = failures[0]
            self._bad.add(self._store.key(int(other[0])), reason)
        raise SampleError(self._store.key(int(sample[0])), f"nor can those that would replace it: {reason}")

    def _fill(self, seed: int, epoch: int, keys: _Ints, ids: _Ints, out: _Pixels, train: bool) -> Failures:
        """Decodes samples under the draws of their keys; gives what failed, by its place."""
        distinct, counts = np.unique(ids, return_counts=True)
        if len(distinct) == len(ids):
            return self._fill_distinct(seed, epoch, keys, ids, np.ones_like(ids), out, train)
        order = np.argsort(ids, kind="stable")
        pixels = (torch if isinstance(out, Tensor) else np).empty_like(out)
        failures = self._fill_distinct(seed, epoch, keys[order], distinct, counts, pixels, train)
        out[torch.from_numpy(order).to(out.device) if isinstance(out, Tensor) else order] = pixels
        starts = np.cumsum(counts) - counts
        return {
            int(place): reason
            for image, reason in failures.items()
            for place in order[starts[image] : starts[image] + counts[image]]
        }

    def _fill_distinct(
        self, seed: int, epoch: int, keys: _Ints, ids: _Ints, counts: _Ints, out: _Pixels, train: bool
    ) -> Failures:
        """The same of n samples, each for as many keys as `counts` says, one after another; failures by sample."""
        with self._clock.stage("read"):
            data, failures = self._read(ids)
        if not failures:
            with self._clock.stage("decode"):
                if self._keeping:
                    data = self._keeping.keep(ids, data)
                sizes, failures = self._decoder.sizes(data)
                if not failures:
                    boxes = self._crops.boxes(seed, epoch, keys, np.repeat(sizes, counts, axis=0), train=train)
                    mirrored = draws.flips(seed, epoch, keys, self._crops.hflip if train else 0.0)
                    return self._decoder.decode(data, boxes, mirrored, out, counts)
        return self._fill_others(seed, epoch, keys, ids, counts, out, train, failures)

    def _fill_others(
        self,
        seed: int,
        epoch: int,
        keys: _Ints,
        ids: _Ints,
        counts: _Ints,
        out: _Pixels,
        train: bool,
        failures: Failures,
    ) -> Failures:
        """Those that have not failed yet; gives all that have in the end."""
        fine = np.array([place not in failures for place in range(len(ids))], dtype=np.bool_)
        rest, rows = np.flatnonzero(fine), np.flatnonzero(np.repeat(fine, counts))
        pixels = (torch if isinstance(out, Tensor) else np).empty_like(out[: len(rows)])
        some = keys[rows], ids[rest], counts[rest], pixels
        further = self._fill_distinct(seed, epoch, *some, train) if len(rest) else {}
        out[torch.from_numpy(rows).to(out.device) if isinstance(out, Tensor) else rows] = pixels
        return {**failures, **{int(rest[place]): reason for place, reason in further.items()}}

    def _read(self, ids: _Ints) -> tuple[Sequence[Encoded], Failures]:
        if self._keeping is None:
            return self._read_stored(ids)
        kept = self._keeping.known(ids)
        if kept.all():
            return self._keeping.encodings(ids), {}
        there, rest = np.flatnonzero(kept), np.flatnonzero(~kept)
        data, failures = self._read_stored(ids[rest])
        if failures:
            return [], {int(rest[place]): reason for place, reason in failures.items()}
        if not len(there):
            return data, {}
        return joined([(there, self._keeping.encodings(ids[there])), (rest, of_images(data))]), {}

    def _read_stored(self, ids: _Ints) -> tuple[Sequence[Encoded], Failures]:
        try:
            located = self._store.locate(ids)
        except SampleError:
            located = None  # one of them: each by itself says which
        if located is not None and not self._verify:
            return located, {}

        def some(first: int) -> list[Encoded | SampleError]:
            return [self._read_one(sample) for sample in ids[first : first + _READ_AT_ONCE].tolist()]

        read = [each for part in self._readers.map(some, range(0, len(ids), _READ_AT_ONCE)) for each in part]
        failures = {place: each.reason for place, each in enumerate(read) if isinstance(each, SampleError)}
        return [b"" if isinstance(each, SampleError) else each for each in read], failures

    def _read_one(self, sample: int) -> Encoded | SampleError:
        try:
            if self._verify:
                self._store.verify(sample)
            return self._store.read(sample)
        except SampleError as error:
            return error
