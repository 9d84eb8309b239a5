"""Work on many images in threads, with progress shown."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from convert.progress import Progress

_AT_ONCE = 64  # a task for each of a million images would fill the memory before the first is done

T = TypeVar("T")


def in_threads(work: Callable[[int], T], count: int, workers: int, *, desc: str, shown: bool = True) -> list[T]:
    """What `work` returns for 0 to count - 1, in this order; its first error ends all of it.

    Args:
        work: called from several threads.
        count: of the images.
        workers: threads.
        desc: what stands before the progress.
        shown: whether progress is.
    """

    def some(first: int) -> list[T]:
        return [work(place) for place in range(first, min(first + _AT_ONCE, count))]

    results: list[T] = []
    with Progress(count, desc=desc, shown=shown) as progress, ThreadPoolExecutor(workers) as pool:
        try:
            for found in pool.map(some, range(0, count, _AT_ONCE)):
                results += found
                progress.update(len(found))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
