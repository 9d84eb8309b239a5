"""The memory of augmentation: kept results, after a fork too, and draws on their way to a card."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from loaders.augment import Augment, RandAugment, on_cpu
from loaders.augment.upload import _in_one_copy, upload_all
from loaders.memory import ReusedArrays
from loaders.native.library import why_missing

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8))


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` finds in a fork; False where it fails, or waits for longer than 20 seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        found = False
        try:
            found = work()
        finally:
            os._exit(0 if found else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(why_missing() is not None, reason="needs the compiled library")
@pytest.mark.parametrize("lock", ["threads", "operated", "finished"])
def test_a_fork_while_a_lock_is_held_leaves_the_child_free(lock: str) -> None:
    """The policies are there for other people's loaders, whose workers are forked while threads augment."""
    augment = Augment(policy=RandAugment())
    drawn = augment.draw(0, 0, np.arange(16), 32)
    right = augment(IMAGES, drawn)
    locks = {
        "threads": on_cpu._lock,
        "operated": on_cpu._outputs._lock,
        "finished": on_cpu._outputs_of_floats._lock,
    }
    with locks[lock]:  # as another thread would hold it, which the child does not have
        assert in_child(lambda: torch.equal(augment(IMAGES, drawn), right))
    assert torch.equal(augment(IMAGES, drawn), right)


def test_a_forked_child_keeps_nothing_of_its_parents_memory() -> None:
    arrays = ReusedArrays(2)
    address = arrays.take((1000,), np.uint8).ctypes.data
    assert arrays.take((1000,), np.uint8).ctypes.data == address, "it is kept"
    assert in_child(lambda: not arrays._arrays)
    assert arrays.take((1000,), np.uint8).ctypes.data == address, "the parent's stays"


@pytest.mark.skipif(why_missing() is not None, reason="needs the compiled library")
def test_results_that_are_kept_are_bounded() -> None:
    augment = Augment(policy=RandAugment())
    held = []
    for step in range(6):  # of 48 MiB as bytes, of 192 MiB as float32
        held.append(
            augment(torch.empty(16, 1024, 1024, 3, dtype=torch.uint8), augment.draw(0, step, np.arange(16), 1024))
        )
        del held[:-2]
    for kept in (on_cpu._outputs, on_cpu._outputs_of_floats):
        assert 0 < sum(array.nbytes for array in kept._arrays) <= 2**28
    held.clear()
    augment(IMAGES, augment.draw(0, 0, np.arange(16), 32))
    for kept in (on_cpu._outputs, on_cpu._outputs_of_floats):
        assert sum(array.nbytes for array in kept._arrays) < 2**20, "another shape gives it up"


def arrays_of(step: int) -> list[np.ndarray[Any, Any]]:
    """Of the types and shapes of a batch's draws, and others."""
    rng = np.random.default_rng(step)
    return [
        rng.integers(-(2**31), 2**31, (2, 64, 2), dtype=np.int32),
        rng.random((64, 2, 8), dtype=np.float32),
        rng.integers(0, 256, 3, dtype=np.uint8),
        np.empty((0, 4), dtype=np.int64),
        rng.random((5, 7))[::2, ::-1].copy().T,
        np.array(step),
    ]


def test_arrays_that_are_copied_as_one_arrive_as_they_were() -> None:
    arrays = arrays_of(0)
    found = _in_one_copy([torch.from_numpy(array) for array in arrays], torch.device("cpu"))
    for tensor, array in zip(found, arrays, strict=True):
        assert tensor.dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.storage_offset() * tensor.element_size() % 16 == 0, "as a kernel is compiled for"
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == 1


@pytest.mark.gpu
def test_uploads_of_many_batches_wait_for_nothing_and_do_not_mix() -> None:
    device = torch.device("cuda")
    upload_all(arrays_of(0), device)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # cycles, in which no copy can begin
    behind = torch.cuda.Event()
    behind.record()
    found = [upload_all(arrays_of(step), device) for step in range(50)]
    assert not behind.query(), "the host went on"
    for step, tensors in enumerate(found):
        for tensor, array in zip(tensors, arrays_of(step), strict=True):
            np.testing.assert_array_equal(tensor.cpu().numpy(), array)
