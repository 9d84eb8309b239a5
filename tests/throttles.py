"""Stages of a run slowed down on purpose, to see whether they are named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from loaders import transfer
from loaders.augment import Augment
from loaders.native.decoder import NativeDecoder
from loaders.reference import ReferenceDecoder
from loaders.tree import TreeStore
from twistnet.step import TrainStep


class TokenBucket:
    """A disk of so many bytes a second, whoever reads from it."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate, self._lock, self._free_at = bytes_per_s, threading.Lock(), 0.0

    def take(self, count: int) -> None:
        """Returns once the disk has read that many bytes, after all that was asked of it before."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            ready = self._free_at
        time.sleep(max(0.0, ready - time.monotonic()))


def slow_disk(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """About so many seconds a batch of 4 of the small tree, whose images have 8 kB."""
    bucket, read = TokenBucket(4 * 8_000 / seconds), TreeStore.read

    def slow(self: TreeStore, sample: int) -> bytes:
        data = read(self, sample)
        bucket.take(len(data))
        return data

    patch.setattr(TreeStore, "read", slow)


def slow_decoding(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """One thread that decodes, and works so many seconds on a batch."""
    lock = threading.Lock()
    for decoder in (NativeDecoder, ReferenceDecoder):
        patch.setattr(decoder, "decode", _held(decoder.decode, seconds, lock))


def slow_upload(patch: pytest.MonkeyPatch, seconds: float) -> None:
    upload = transfer.upload

    def slow(tensor: Any, device: Any) -> Any:
        if tensor.ndim == 4:  # the images
            time.sleep(seconds)
        return upload(tensor, device)

    patch.setattr(transfer, "upload", slow)


def slow_augmentation(patch: pytest.MonkeyPatch, seconds: float) -> None:
    patch.setattr(Augment, "__call__", _held(Augment.__call__, seconds))


def slow_step(patch: pytest.MonkeyPatch, seconds: float) -> None:
    patch.setattr(TrainStep, "__call__", _held(TrainStep.__call__, seconds))


def _held(call: Callable[..., Any], seconds: float, lock: threading.Lock | None = None) -> Callable[..., Any]:
    lock = lock or threading.Lock()

    def slow(*args: Any, **options: Any) -> Any:
        with lock:
            time.sleep(seconds)
            return call(*args, **options)

    return slow


THROTTLES = {
    "read": slow_disk,
    "decode": slow_decoding,
    "upload": slow_upload,
    "augment": slow_augmentation,
    "step": slow_step,
}
