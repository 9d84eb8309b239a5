"""Which nodes and cards take part in a run, and how fast they exchange gradients: said once, by the first rank."""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from twistnet.distributed import World

_TIMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TakingPart:
    """The ranks of a run.

    Attributes:
        nodes: what computes on each, by host name: "4 x NVIDIA H100", in the order of the ranks.
        backend: that exchanges gradients, "nccl" or "gloo".
        peers: whether the cards of this node reach each other's memory directly; None without several.
        megabytes: of the gradients.
        all_reduce_s: seconds of one exchange of them, the median of five.
        bus_gb_per_s: what that moves past each rank, as nccl-tests count it: 2 (n - 1) / n of the bytes.
    """

    nodes: dict[str, str]
    backend: str
    peers: bool | None
    megabytes: float
    all_reduce_s: float
    bus_gb_per_s: float

    def __str__(self) -> str:
        nodes = ", ".join(f"{host} ({what})" for host, what in self.nodes.items())
        linked = {None: "", True: ", cards reach each other", False: ", cards reach each other through the host only"}
        return (
            f"Ranks on {len(self.nodes)} node{'s' * (len(self.nodes) != 1)}: {nodes}; {self.backend}"
            f"{linked[self.peers]}; an all-reduce of {self.megabytes:.0f} MB takes {1000 * self.all_reduce_s:.1f} ms, "
            f"{self.bus_gb_per_s:.2f} GB/s."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the log."""
        return asdict(self)


def measure(world: World, parameters: int) -> TakingPart | None:
    """Asks every rank where it is, and exchanges as much as a step does; None where there is one rank.

    Args:
        world: all of its ranks call this.
        parameters: of the model, float32.
    """
    if world.world_size == 1:
        return None
    found: list[Any] = [None] * world.world_size
    dist.all_gather_object(found, (socket.gethostname(), _name(world.device)))
    by_host: dict[str, Counter[str]] = {}
    for host, name in found:
        by_host.setdefault(host, Counter())[name] += 1
    gradients = torch.zeros(parameters, device=world.device)
    seconds = statistics.median([_exchange(world, gradients) for _ in range(_TIMES + 1)][1:])
    share = 2 * (world.world_size - 1) / world.world_size
    return TakingPart(
        nodes={
            host: ", ".join(f"{count} x {name}" for name, count in names.items()) for host, names in by_host.items()
        },
        backend=dist.get_backend(),
        peers=_peers(),
        megabytes=gradients.nbytes / 1e6,
        all_reduce_s=seconds,
        bus_gb_per_s=share * gradients.nbytes / seconds / 1e9,
    )


def _exchange(world: World, tensor: torch.Tensor) -> float:
    world.wait_for_all()
    start = time.perf_counter()
    world.sum(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter() - start


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peers() -> bool | None:
    count = torch.cuda.device_count()
    if count < 2:
        return None
    return all(torch.cuda.can_device_access_peer(a, b) for a in range(count) for b in range(count) if a != b)
