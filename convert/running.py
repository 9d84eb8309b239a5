"""Writes shards on all cores, tells how far it is, and stops all of them at the first error."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_bool, c_int64
from multiprocessing import forkserver
from typing import Any

from convert.progress import Progress
from convert.shard import ShardTask, write_shard
from loaders.errors import InputError

_POLL_S = 0.2
_SYNC_EVERY = 16  # samples; counting each would make the processes wait for each other

_shared: Any = None


class _Stopped(Exception):
    """Another process met an error."""


def write_shards(tasks: Sequence[ShardTask], workers: int, desc: str = "") -> None:
    """Writes shards.

    Args:
        tasks: the shards, at least one sample each; none is fine too.
        workers: processes.
        desc: what stands before the progress.

    Raises:
        InputError, OSError: the first error of any process; the shards that were finished stay.
    """
    encodes = any(task.policy.rule != "original" for task in tasks)
    # One process imports what all of them need, and they are its copies.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convert.shard", *(["torchvision.io"] if encodes else [])])
    _start_server()
    images, read, stop = context.Value(c_int64), context.Value(c_int64), context.Value(c_bool)
    total = sum(len(task.members) for task in tasks)
    processes = max(1, min(workers, len(tasks)))
    with (
        Progress(total, desc=desc) as progress,
        ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(images, read, stop, encodes)) as pool,
    ):
        futures: list[Future[None]] = [pool.submit(_write, task) for task in tasks]
        with _shown(progress, images, read):
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                stop.value = True
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            failed = [error for future in done if (error := future.exception()) is not None]
            if failed:
                stop.value = True
                pool.shutdown(wait=True, cancel_futures=True)
                first = next((error for error in failed if not isinstance(error, _Stopped)), failed[0])
                if isinstance(first, BrokenProcessPool):
                    raise InputError(
                        "a writing process was killed, as when memory runs out: lower --workers."
                    ) from first
                raise first


def _start_server() -> None:
    """Starts the process that all others are copies of, so that neither Ctrl-C nor the working directory reach it."""
    kept = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # else a convert.py in the working directory would be imported for ours
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        forkserver.ensure_running()
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        if kept is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = kept


@contextlib.contextmanager
def _shown(progress: Progress, images: Any, read: Any) -> Iterator[None]:
    """Tells the progress from a thread of its own while the block waits."""
    ended, start = threading.Event(), time.monotonic()

    def follow() -> None:
        last, told = False, 0
        while not last:
            last = ended.wait(_POLL_S)
            done = images.value
            progress.update(done - told, f"{read.value / 1e6 / (time.monotonic() - start):,.0f} MB/s")
            told = done

    thread = threading.Thread(target=follow, name="twistnet-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _begin(images: Any, read: Any, stop: Any, encodes: bool) -> None:
    global _shared
    _shared = images, read, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    if encodes:
        import torch

        torch.set_num_threads(1)  # there is a process for every core: torch's own threads would be in the way
    threading.Thread(target=_end_with_the_parent, name="twistnet-parent", daemon=True).start()


def _end_with_the_parent() -> None:
    """Ends this process when the parent was killed: it would wait for the next shard for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(task: ShardTask) -> None:
    images, read, stop = _shared
    pending = [0, 0]

    def push() -> None:
        with images.get_lock():
            images.value += pending[0]
        with read.get_lock():
            read.value += pending[1]
        pending[:] = [0, 0]

    def count(size: int) -> None:
        pending[0] += 1
        pending[1] += size
        if pending[0] >= _SYNC_EVERY:
            push()
            if stop.value:
                raise _Stopped

    write_shard(task, count)
    push()
