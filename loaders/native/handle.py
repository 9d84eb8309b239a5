"""A decoder of the compiled library: an address, and threads that end with it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from loaders.errors import InputError


class Handle:
    """What one of the library's functions has opened.

    Args:
        opens: takes a number of threads and gives an address, or None where they cannot be started.
        closes: takes that address.
        num_threads: threads.

    Raises:
        InputError: where the threads cannot be started.
    """

    def __init__(self, opens: Callable[[int], int | None], closes: Callable[[int], None], num_threads: int) -> None:
        self._address = opens(num_threads)
        if not self._address:
            raise InputError(f"{num_threads} threads cannot be started: lower --workers.")
        self._process = os.getpid()
        self._finalizer = weakref.finalize(self, _close, closes, self._address, self._process)

    @property
    def address(self) -> int:
        """What the library's functions take. Raises ValueError where it was closed, or opened before a fork."""
        if not self._address:
            raise ValueError("this decoder was closed")
        if os.getpid() != self._process:
            raise ValueError("this decoder was opened before a fork, which does not copy its threads: open another one")
        return self._address

    def close(self) -> None:
        """Ends the threads."""
        self._address = None
        self._finalizer()


def _close(closes: Callable[[int], None], address: int, process: int) -> None:
    if os.getpid() == process:  # after a fork there are no threads to wait for
        closes(address)
