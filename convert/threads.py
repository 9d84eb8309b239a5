"""Work on many images in threads, with a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

_AT_ONCE = 64  # a task for each of a million images would fill the memory before the first is done

T = TypeVar("T")


def in_threads(work: Callable[[int], T], count: int, workers: int, *, desc: str, shown: bool = True) -> list[T]:
    """What `work` returns for 0 to count - 1, in this order; its first error ends all of it.

    Args:
        work: called from several threads.
        count: of the images.
        workers: threads.
        desc: what stands before the bar.
        shown: whether there is a bar; without a terminal there is none.
    """

    def some(first: int) -> list[T]:
        return [work(place) for place in range(first, min(first + _AT_ONCE, count))]

    results: list[T] = []
    with (
        tqdm(total=count, unit="img", desc=desc, disable=not (shown and sys.stderr.isatty())) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            for found in pool.map(some, range(0, count, _AT_ONCE)):
                results += found
                bar.update(len(found))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
