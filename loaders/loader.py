"""The loader that every store and decoder runs behind.

    Order.slice(epoch, step) -> ids, keys        this thread ahead of the consumer's, `look_ahead` batches
    Need.wait                                    of a staged set, until its shards have come (loaders/staging.py)
    Store.read                                   `num_threads` threads, but for what is kept (loaders/kept.py), and
    whole images, to be kept                     the same threads
    Decoder.sizes, crop boxes,
    Decoder.decode -> uint8 (B, size, size, 3)   two threads, a batch each, and the decoder's own (loaders/decoding.py)
                                                 in the card's memory already where the decoder is
    upload, augment -> Batch                     the first thread again, on a stream of its own on CUDA
    next()                                       the consumer

The images of a batch do not depend on any of these threads: every draw is a function of the sample.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders import draws, transfer
from loaders.augment import Augment
from loaders.crops import CropPolicy
from loaders.decoding import BadSamples, BatchDecoding
from loaders.errors import InputError
from loaders.kept import Keeping, KeptPixels
from loaders.native.decoder import LARGE
from loaders.order import Order
from loaders.paging import Paging
from loaders.prefetch import Prefetch
from loaders.stages import StageClock
from loaders.staging import Need, Staging
from loaders.transfer import Handover, HostBuffers
from loaders.types import Batch, Decoder, Store

BATCHES_AT_ONCE = 2  # while one is being prepared in Python, the decoder's threads work on the other
_CLOSED = "this loader was closed: open a new one."
_FORKED = "this loader was opened before a fork, which does not copy its threads: open another one."
_Prefetched: TypeAlias = Prefetch[tuple[Batch, Handover | None]]


class _Decoding(NamedTuple):
    """A batch whose samples are being decoded."""

    ids: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]  # of the draws
    valid: npt.NDArray[np.bool_]
    pixels: Tensor
    need: Need | None  # of staged shards
    task: Future[npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a loader delivers; its fields are the parameters of `loaders.open_loader`, resolved."""

    store: Store
    staging: Staging | None = None
    decoder: Decoder
    order: Order
    crops: CropPolicy
    augment: Augment | None
    train: bool
    size: int
    device: torch.device
    rank: int
    world_size: int
    max_bad: float
    verify: bool
    kept: KeptPixels | None = None
    form: str
    choice: str

    @property
    def batch_size(self) -> int:
        """Samples of a batch on this rank."""
        return self.order.global_batch // self.world_size


class _Epoch(Iterator[Batch]):
    """The batches of an epoch, as they become ready."""

    def __init__(self, prefetch: _Prefetched, clock: StageClock) -> None:
        self._prefetch, self._clock, self._process = prefetch, clock, os.getpid()

    def __next__(self) -> Batch:
        if os.getpid() != self._process:
            raise InputError(_FORKED)
        try:
            with self._clock.stage("wait"):
                batch, handover = self._prefetch.get()
        except BaseException:  # the end, an error of the source, or an interrupt
            self.close()
            raise
        if handover:
            handover.accept()
        return batch

    def close(self) -> None:
        """Ends the work ahead and waits until it has ended."""
        self._prefetch.close()

    def __del__(self) -> None:
        # Without waiting: the collector may call this on the very thread that would be waited for.
        self._prefetch.abandon()


class BatchLoader:
    """Batches of one split for one rank.

    Args:
        plan: what to deliver.
        num_threads: threads that read.
        look_ahead: batches that they may be ahead of the consumer.
    """

    def __init__(self, plan: Plan, *, num_threads: int, look_ahead: int) -> None:
        self.plan = plan
        self._look_ahead = look_ahead
        self._clock = StageClock()
        self._paging = Paging(plan.store, plan.order, plan.rank, plan.world_size)
        self._buffers = HostBuffers(plan.batch_size, plan.device)
        self._bad = BadSamples(plan.max_bad, plan.order.num_samples)
        self._readers = ThreadPoolExecutor(num_threads, thread_name_prefix="twistnet-read")
        self._decoding = BatchDecoding(
            plan.store,
            plan.decoder,
            plan.crops,
            self._bad,
            verify=plan.verify,
            readers=self._readers,
            keeping=self._keeping(),
            clock=self._clock,
        )
        self._batches = ThreadPoolExecutor(BATCHES_AT_ONCE, thread_name_prefix="twistnet-batch")
        self._stream = _stream(plan.device)
        self._running: list[_Prefetched] = []
        self._closed = False
        self._process = os.getpid()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.plan.order)

    @property
    def classes(self) -> Sequence[str]:
        """Class names; a label is an index into them."""
        return self.plan.store.classes

    @property
    def num_samples(self) -> int:
        """Samples of the split, over all ranks."""
        return self.plan.order.num_samples

    @property
    def fingerprint(self) -> str:
        """The store's: of its samples, labels and order."""
        return self.plan.store.fingerprint

    @property
    def store(self) -> str:
        """Form of the data set that is read, as `open_loader` takes it."""
        return self.plan.form

    @property
    def decoder(self) -> str:
        """Name of the decoder that makes the pixels."""
        return self.plan.decoder.name

    @property
    def choice(self) -> str:
        """Store, decoder and threads, with the reasons where they were chosen by themselves, and what is done about a
        set that is larger than memory: for people to read."""
        return "; ".join(part for part in (self.plan.choice, self._paging.reason) if part)

    def shares(self) -> Mapping[str, float]:
        """Share of all images so far, 0 to 1, that each decoder took, by name, where two share the work; else empty."""
        return self.plan.decoder.shares()

    @property
    def bad(self) -> Mapping[str, str]:
        """Samples that were replaced so far, and what is wrong with each, by their keys."""
        return self._bad.found()

    def epoch(self, epoch: int, start: int = 0, *, size: int | None = None) -> Iterator[Batch]:
        """The batches of an epoch from batch `start` on; dropping the iterator ends the work ahead of it.

        Args:
            epoch: 0 to 2**32 - 1.
            start: 0 to `len(self)`.
            size: side of the images in pixels; the loader's own unless given.

        Raises:
            InputError: where `start` is outside the epoch, `size` is below 1, or the loader was closed or opened before
                a fork.
            SampleError: at the `next()` of a batch with a sample that cannot be read or decoded, beyond `max_bad`.
        """
        size = self.plan.size if size is None else size
        if size < 1:
            raise InputError(f"size {size} is too small: take at least 1.")
        if not 0 <= start <= len(self):
            raise InputError(f"batch {start} is outside the epoch: it has {len(self)} batches, from 0.")
        if self._closed or os.getpid() != self._process:
            raise InputError(_CLOSED if self._closed else _FORKED)
        prefetch = Prefetch(lambda stopped: self._ahead(epoch, start, size, stopped), depth=1)
        self._running = [prefetch, *(each for each in self._running if each.running)]
        return _Epoch(prefetch, self._clock)

    def ids(self, epoch: int, step: int) -> npt.NDArray[np.int64]:
        """(G,) int64: the ids of a step's samples over all ranks, in order.

        Args:
            epoch: 0 to 2**32 - 1.
            step: 0 to `len(self)` - 1.
        """
        ids, _ = self.plan.order.batch(epoch, step)
        return ids

    def key(self, sample: int) -> str:
        """What the store calls a sample, as messages name it."""
        return self.plan.store.key(sample)

    def seconds(self) -> Mapping[str, float]:
        """Seconds since the loader was opened: "read" and "decode", in which two batches may be at once, as in "stage",
        for shards that have yet to come; "buffer", for memory that an upload still reads; "upload" and "augment"; and
        "wait", which the consumer spent in `next()`."""
        return self._clock.seconds()

    def close(self) -> None:
        """Ends every thread. The loader cannot be used afterwards."""
        self._closed = True
        for prefetch in self._running:
            prefetch.close(InputError(_CLOSED))
        for pool in (self._batches, self._readers):
            pool.shutdown(cancel_futures=True)
        self.plan.decoder.close()
        if self.plan.staging:
            self.plan.staging.close()

    def _keeping(self) -> Keeping | None:
        plan = self.plan
        if plan.kept is None:
            return None
        below = None if plan.decoder.name == "reference" else LARGE
        return Keeping(plan.store, plan.kept, verified=plan.verify, below=below, threads=self._readers)

    def _ahead(
        self, epoch: int, start: int, size: int, stopped: Callable[[], bool]
    ) -> Iterator[tuple[Batch, Handover | None]]:
        ahead: deque[_Decoding] = deque()
        try:
            for step in range(start, len(self)):
                if stopped():
                    return
                ahead.append(self._begin(epoch, step, size, stopped))
                if len(ahead) > self._look_ahead:
                    yield self._finish(epoch, ahead.popleft(), size)
            while ahead and not stopped():
                yield self._finish(epoch, ahead.popleft(), size)
        finally:
            for decoding in ahead:
                if decoding.task.cancel() and decoding.need:
                    decoding.need.close()

    def _begin(self, epoch: int, step: int, size: int, stopped: Callable[[], bool]) -> _Decoding:
        plan = self.plan
        ids, valid, keys = plan.order.slice(epoch, step, plan.rank, plan.world_size)
        need = plan.staging.begin(epoch, step, ids, stopped) if plan.staging else None
        self._paging.before(epoch, step, ids)
        with self._clock.stage("buffer"), self._on_stream():
            if plan.decoder.on_device:
                pixels = torch.empty((plan.batch_size, size, size, 3), dtype=torch.uint8, device=plan.device)
            else:
                pixels = self._buffers.take(size)
        task = self._batches.submit(self._decode, epoch, ids, keys, pixels, need)
        return _Decoding(ids, keys, valid, pixels, need, task)

    def _decode(
        self,
        epoch: int,
        ids: npt.NDArray[np.int64],
        keys: npt.NDArray[np.int64],
        pixels: Tensor,
        need: Need | None = None,
    ) -> npt.NDArray[np.int64]:
        if need:
            try:
                with self._clock.stage("stage"):
                    need.wait()
                return self._decode(epoch, ids, keys, pixels)
            finally:
                need.close()
        out = pixels if self.plan.decoder.on_device else pixels.numpy()
        with self._on_stream():
            shown = self._decoding.run(self.plan.order.seed, epoch, ids, keys, out, train=self.plan.train)
        self._paging.after(ids)
        return shown

    def _on_stream(self) -> AbstractContextManager[object]:
        # One stream takes memory, writes and augments. What a consumer's stream still reads is not given out again
        # before it has (`Handover`).
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _finish(self, epoch: int, decoding: _Decoding, size: int) -> tuple[Batch, Handover | None]:
        ids = decoding.task.result()
        plan = self.plan
        augment_draws = plan.augment.draw(plan.order.seed, epoch, decoding.keys, size) if plan.augment else None
        shown = decoding.valid & (ids == decoding.ids)  # and what replaces a bad sample does not count
        labels = torch.from_numpy(plan.store.labels[ids])
        partner, weight = _mixed_labels(labels, augment_draws.mix if augment_draws else None)
        on_host = (labels, partner, weight, torch.from_numpy(shown))
        with self._on_stream():
            with self._clock.stage("upload"):
                images = transfer.upload(decoding.pixels, plan.device)
                if self._stream and not plan.decoder.on_device:
                    self._buffers.give_back(decoding.pixels, self._stream.record_event())
                labels, partner, weight, valid = (transfer.upload(tensor, plan.device) for tensor in on_host)
            if plan.augment and augment_draws:
                with self._clock.stage("augment"):
                    images = plan.augment(images, augment_draws)
        batch = Batch(images, labels, partner, weight, valid, torch.from_numpy(ids))
        return batch, Handover(batch[:-1], self._stream) if self._stream else None


def _mixed_labels(labels: Tensor, mix: draws.MixDraws | None) -> tuple[Tensor, Tensor]:
    """The label mixed into each sample, and the weight of the sample's own."""
    if mix is None:
        return labels, torch.from_numpy(np.ones(len(labels), dtype=np.float32))
    weight = torch.from_numpy(mix.weight)
    # Where nothing is mixed in, the partner does not count, and its label is the sample's own.
    return torch.where(weight == 1.0, labels, labels[torch.from_numpy(mix.partner)]), weight


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
