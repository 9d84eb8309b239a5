"""Runs a source of items ahead of its consumer, on one thread, bounded, and hands on what it raises."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


class _End:
    """The source is exhausted, or has raised `error`."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """Items of `source`, made on a thread of their own and kept until asked for.

    Args:
        source: called on the thread with a `stopped` callable, to be asked before long work; yields the items in order.
        depth: items that may wait for the consumer.
    """

    def __init__(self, source: Callable[[Callable[[], bool]], Iterator[T]], depth: int) -> None:
        # Simple queues, also for the room that is left: an interrupt in the middle of `Queue.get` may leave its lock
        # taken for ever, and whoever closes would wait for it.
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(depth):
            self._room.put(None)
        self._stop = threading.Event()
        self._end: _End | None = None
        # The thread must not hold this object, or an iterator that is dropped early would never be collected.
        self._thread = threading.Thread(
            target=_run, args=(source, self._items, self._room, self._stop), name="twistnet-prefetch", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is still there."""
        return self._thread.is_alive()

    def get(self) -> T:
        """The next item. Raises StopIteration at the end, and whatever the source raised; then the same again."""
        if self._end is None:
            item = self._items.get()
            if not isinstance(item, _End):
                self._room.put(None)
                return item
            self._end = item
        raise self._end.error if self._end.error is not None else StopIteration

    def abandon(self) -> None:
        """Asks the thread to end, where nobody will call `get` again. Takes no lock that a finaliser could meet."""
        self._stop.set()

    def close(self, error: BaseException | None = None) -> None:
        """Ends the thread and waits for that; who waits in `get` is told `error`, or that this is all."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:  # items that nobody will ask for
                self._items.get_nowait()
        self._items.put(_End(error))
        self._thread.join()


def _run(
    source: Callable[[Callable[[], bool]], Iterator[T]],
    items: queue.SimpleQueue[T | _End],
    room: queue.SimpleQueue[None],
    stop: threading.Event,
) -> None:
    error: BaseException | None = None
    try:
        for item in source(stop.is_set):
            if not _wait_for(room, stop):
                return
            items.put(item)
    except BaseException as raised:  # whatever it is, it belongs to the consumer
        error = raised
    items.put(_End(error))


def _wait_for(room: queue.SimpleQueue[None], stop: threading.Event) -> bool:
    """Whether there is room, before all is stopped."""
    while not stop.is_set():
        try:
            room.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        return True
    return False
