"""A failure in any stage of a loader reaches whoever waits for its batches, and leaves no thread behind."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from loaders import open_loader
from loaders.augment import Augment
from loaders.decoding import BatchDecoding
from loaders.loader import BatchLoader
from loaders.native.decoder import NativeDecoder
from loaders.native.library import why_missing
from loaders.order import Order
from loaders.paging import Paging
from loaders.reference import ReferenceDecoder
from loaders.transfer import HostBuffers
from loaders.tree import TreeStore

STAGES = {
    "order": (Order, "slice"),
    "read ahead": (Paging, "before"),
    "memory": (HostBuffers, "take"),
    "store": (TreeStore, "read"),
    "sizes": (NativeDecoder, "sizes"),
    "decode": (NativeDecoder, "decode"),
    "batch": (BatchDecoding, "run"),
    "give back": (Paging, "after"),
    "draws": (Augment, "draw"),
    "augment": (Augment, "__call__"),
    "handing over": (BatchLoader, "_finish"),
}


class InjectedError(Exception):
    pass


class ThreadEnds(SystemExit):
    """No Exception, and what a thread ends by without a word."""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("kind", "at"), [(InjectedError, 0), (InjectedError, 2), (ThreadEnds, 2)])
def test_a_failure_in_any_stage_reaches_the_consumer(
    tree: Path, monkeypatch: pytest.MonkeyPatch, stage: str, kind: type[BaseException], at: int
) -> None:
    """In the first batch or a later one: as the exception that it was, within seconds, once and not as an end."""
    owner, name = STAGES[stage]
    if owner is NativeDecoder and why_missing():
        owner = ReferenceDecoder
    right, calls, lock = getattr(owner, name), [0], threading.Lock()

    def fails(*args: object, **options: object) -> object:
        with lock:
            calls[0] += 1
            if calls[0] > 4 * at:
                raise kind(stage)
        return right(*args, **options)

    others = set(threading.enumerate())
    monkeypatch.setattr(owner, name, fails)
    loader = open_loader(tree, "train", 4, train=True, size=32, augment=Augment(), num_threads=2, look_ahead=2)
    begun = time.monotonic()
    with pytest.raises(kind, match=stage):
        list(loader.epoch(0))
    assert time.monotonic() - begun < 20
    loader.close()
    assert not set(threading.enumerate()) - others
