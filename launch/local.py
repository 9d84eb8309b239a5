"""This machine, alone or as one of several that are started by hand."""

from __future__ import annotations

from launch.plan import Launch, Plan
from launch.rendezvous import parse_endpoint


def launch(plan: Plan, *, node_rank: int | None = None, rdzv_endpoint: str | None = None) -> Launch:
    """torchrun on this machine.

    Args:
        plan: what to run.
        node_rank: which of several nodes this is, from 0.
        rdzv_endpoint: host:port of node 0, where they meet.

    Raises:
        ValueError: one sentence, where several nodes lack one of these, or a single one has it.
    """
    given = [name for name, value in (("node_rank", node_rank), ("rdzv_endpoint", rdzv_endpoint)) if value is not None]
    if plan.nodes == 1:
        if given:
            raise ValueError(f"--{given[0]} is of several nodes, and --nodes is 1: give --nodes, or leave it out.")
        argv = plan.torchrun("--standalone", "--nnodes=1")
    elif node_rank is None or rdzv_endpoint is None:
        raise ValueError(
            f"--nodes {plan.nodes} started by hand need --node_rank (0 to {plan.nodes - 1}) and --rdzv_endpoint "
            "HOST:PORT of node 0: call this on each of them with both."
        )
    else:
        if not 0 <= node_rank < plan.nodes:
            raise ValueError(f"--node_rank {node_rank} is not among --nodes {plan.nodes}: give 0 to {plan.nodes - 1}.")
        parse_endpoint(rdzv_endpoint)
        argv = plan.checked(str(plan.nodes), rdzv_endpoint, plan.name, f"--node_rank={node_rank}")
    values = [f"{name}={value}" for name, value in plan.values.items()]
    return Launch(argv=["env", *values, *argv] if values else argv)
