"""Batch norm's running statistics on several ranks: each rank's follow the batches that it saw.

They are averaged where the model is validated, and kept for every rank where training goes on from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twistnet.distributed import World


def gather_buffers(model: nn.Module, world: World) -> Tensor:
    """(world_size, n) float32: the floating-point buffers of every rank's model, flattened; all ranks call this."""
    return world.gather(flattened(statistics(model), world.device).float())


def set_buffers(model: nn.Module, values: Tensor) -> None:
    """Sets the floating-point buffers from (n,) values as `gather_buffers` flattens them."""
    fill(statistics(model), values)


def average_buffers(model: nn.Module, world: World) -> Tensor:
    """Gives every rank the mean of all ranks' buffers; (world_size, n): what they were."""
    buffers = gather_buffers(model, world)
    if world.world_size > 1:
        set_buffers(model, buffers.mean(dim=0))
    return buffers


def statistics(model: nn.Module) -> list[Tensor]:
    """The floating-point buffers of a model."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def flattened(buffers: Sequence[Tensor], device: torch.device) -> Tensor:
    """(n,) their values, one after the other, as a new tensor."""
    return torch.cat([buffer.reshape(-1) for buffer in buffers]) if buffers else torch.zeros(0, device=device)


def fill(buffers: Sequence[Tensor], values: Tensor) -> None:
    """Sets them from values as `flattened` makes them."""
    if buffers:
        parts = torch.split(values, [buffer.numel() for buffer in buffers])
        torch._foreach_copy_(list(buffers), [part.view_as(each) for part, each in zip(parts, buffers, strict=True)])
