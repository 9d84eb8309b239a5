"""Batch norm's running statistics on several ranks: each rank's follow the batches that it saw.

They are averaged where the model is validated, and kept for every rank where training goes on from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twistnet.distributed import World


def gather_buffers(model: nn.Module, world: World) -> Tensor:
    """(world_size, n) float32: the floating-point buffers of every rank's model, flattened; all ranks call this."""
    buffers = [buffer.reshape(-1).float() for buffer in statistics(model)]
    return world.gather(torch.cat(buffers) if buffers else torch.zeros(0, device=world.device))


def set_buffers(model: nn.Module, values: Tensor) -> None:
    """Sets the floating-point buffers from (n,) values as `gather_buffers` flattens them."""
    buffers = statistics(model)
    for buffer, part in zip(buffers, torch.split(values, [each.numel() for each in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def average_buffers(model: nn.Module, world: World) -> Tensor:
    """Gives every rank the mean of all ranks' buffers; (world_size, n): what they were."""
    buffers = gather_buffers(model, world)
    if world.world_size > 1:
        set_buffers(model, buffers.mean(dim=0))
    return buffers


def statistics(model: nn.Module) -> list[Tensor]:
    """The floating-point buffers of a model."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]
