"""The process group, with one process being the simple case of many."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import datetime
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from launch.ranks import Ranks
from loaders import InputError
from loaders.errors import one_line
from twistnet.meeting import meet
from twistnet.watchdog import Watchdog

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_TIMEOUT = datetime.timedelta(minutes=30)
_STORE_TIMEOUT = datetime.timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among the others of the run.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: processes of the run.
        device: the one that this process computes on.
        watchdog: to be told of every stage that begins.
    """

    rank: int
    world_size: int
    device: torch.device
    watchdog: Watchdog = field(default_factory=Watchdog.none, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over all ranks, in place, on every rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """(world_size, *shape): every rank's tensor, on every rank."""
        if self.world_size == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(found, tensor)
        return torch.stack(found)

    def any(self, true_here: bool) -> bool:
        """Whether it is true on any rank; all of them call this."""
        return bool(self.sum(torch.tensor(float(true_here), device=self.device)) > 0)

    def wait_for_all(self) -> None:
        """Returns once every rank has come here."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module, *, static: bool = False, compress: bool = False) -> nn.Module:
        """The model, averaging its gradients over the ranks. Buffers stay each rank's own: `twistnet.buffers`.

        Args:
            model: on this rank's device.
            static: whether every backward pass is followed by an exchange and reaches the same parameters.
            compress: whether gradients are exchanged in bfloat16.
        """
        if self.world_size == 1:
            return model
        # A 1 x 1 convolution's gradient has two layouts that are the same in memory, and torch warns of it.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        on_card = [self.device.index] if self.device.type == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(
            model, device_ids=on_card, gradient_as_bucket_view=True, broadcast_buffers=False, static_graph=static
        )
        if compress:
            parallel.register_comm_hook(None, default_hooks.bf16_compress_hook)
        return parallel


@contextmanager
def join(device: str, watchdog: Watchdog | None = None) -> Iterator[World]:
    """Joins the process group that torchrun's environment describes; without one, a world of one process.

    Args:
        device: "auto" (a CUDA card where there is one), "cpu" or "cuda".
        watchdog: watches from before the ranks meet until all of them have come to the end of the block.

    Raises:
        InputError: for a device that is not there, or ranks that cannot meet.
    """
    watchdog = watchdog or Watchdog.none()
    watchdog.start()
    try:
        with _joined(device, watchdog) as world:
            yield world
    finally:
        watchdog.close()


@contextmanager
def watched(world: World, watchdog: Watchdog) -> Iterator[World]:
    """The same world for a part of its time, watched by another watchdog: that of one run of several."""
    watchdog.start()
    try:
        yield dataclasses.replace(world, watchdog=watchdog)
    finally:
        watchdog.close()


@contextmanager
def _joined(device: str, watchdog: Watchdog) -> Iterator[World]:
    _end_with_the_launcher()
    ranks = Ranks.from_env()
    chosen = choose_device(device, ranks.local_rank)
    world = World(rank=ranks.rank, world_size=ranks.world_size, device=chosen, watchdog=watchdog)
    if ranks.world_size == 1:
        yield world
        return
    backend = "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        backend = "nccl"
    watchdog.at("meeting the other ranks")
    try:
        store, rank, world_size = _find_store()
        dist.init_process_group(
            backend,
            store=meet(store, rank, world_size),
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
            device_id=chosen if backend == "nccl" else None,
        )
    except (ValueError, RuntimeError, TimeoutError) as error:  # gloo has no class of error of its own
        reason = one_line(error, 200)
        raise InputError(
            f"the {ranks.world_size} processes cannot meet ({reason}): start them with torchrun."
        ) from error
    try:
        yield world
        watchdog.at("waiting for the other ranks at the end")
        world.wait_for_all()  # one that has hung by now would be missed by nobody, and torchrun waits for it
    except RuntimeError as error:
        if not _another_rank_ended(error):
            raise
        raise InputError("another process of the run ended first: its own message says why.") from error
    finally:
        with contextlib.suppress(RuntimeError):  # the group may be broken already
            dist.destroy_process_group()


def _end_with_the_launcher() -> None:
    """Asks the kernel to end this rank when torchrun is killed: it would train on, unseen, into the same folder."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _find_store() -> tuple[Store, int, int]:
    """The store by which the ranks meet, this one's number, and how many they are.

    torchrun's store is there before its ranks are: one that does not answer is gone, and torchrun with it, which has
    been killed too early for `_end_with_the_launcher`.
    """
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store, rank, world_size = next(rendezvous("env://", timeout=_STORE_TIMEOUT if has_store else _TIMEOUT))
    store.set_timeout(_TIMEOUT)
    return store, rank, world_size


def _another_rank_ended(error: RuntimeError) -> bool:
    """Whether a collective failed because its peer is gone; gloo has no class of error for that."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error) or "closed by peer" in str(error)


def choose_device(device: str, local_rank: int) -> torch.device:
    """The device that a rank computes on.

    Args:
        device: "auto" (a CUDA card where there is one), "cpu" or "cuda".
        local_rank: of the rank among those of its machine.

    Raises:
        InputError: for a device that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {device!r} is unknown: choose auto, cpu or cuda.")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and cards == 0):
        return torch.device("cpu")
    if not cards:
        raise InputError("this machine has no CUDA card that torch can use: pass --device cpu, or see twistnet doctor.")
    if local_rank >= cards:
        raise InputError(
            f"local rank {local_rank} has no card, since this machine has {cards}: "
            f"lower --nproc_per_node or pass --device cpu."
        )
    return torch.device("cuda", local_rank)
