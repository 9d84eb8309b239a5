"""Which nodes and cards take part in a run, and how fast they exchange gradients: said once, by the first rank."""

from __future__ import annotations

import socket
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from twistnet.distributed import World

_TIMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TakingPart:
    """The ranks of a run.

    Attributes:
        nodes: what computes on each, by host name: "4 x NVIDIA H100", in the order of the ranks. Machines of the same
            name are told apart by a number behind it, "localhost" and "localhost 2".
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
    dist.all_gather_object(found, (socket.gethostname(), machine_id(), _name(world.device)))
    nodes = counted_by_node(found)
    gradients = torch.zeros(parameters, device=world.device)
    seconds = statistics.median([_exchange(world, gradients) for _ in range(_TIMES + 1)][1:])
    share = 2 * (world.world_size - 1) / world.world_size
    return TakingPart(
        nodes=nodes,
        backend=dist.get_backend(),
        peers=_peers(),
        megabytes=gradients.nbytes / 1e6,
        all_reduce_s=seconds,
        bus_gb_per_s=share * gradients.nbytes / seconds / 1e9,
    )


def machine_id() -> str:
    """What no other machine has: Linux makes it anew at every start. Containers of one machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def counted_by_node(ranks: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """What computes on each node, as `TakingPart.nodes`.

    Args:
        ranks: of each rank, in their order: host name, `machine_id` and what it computes on.
    """
    by_node: dict[tuple[str, str], Counter[str]] = {}
    for host, machine, what in ranks:
        by_node.setdefault((host, machine), Counter())[what] += 1
    nodes: dict[str, str] = {}
    same_name: Counter[str] = Counter()
    for (host, _), kinds in by_node.items():
        same_name[host] += 1
        name = host if same_name[host] == 1 else f"{host} {same_name[host]}"
        nodes[name] = ", ".join(f"{count} x {what}" for what, count in kinds.items())
    return nodes


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
