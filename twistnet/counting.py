"""What a model costs: parameters, and multiply-adds of a forward pass, counted and not typed in."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from twistnet.building import check_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A model's size and work.

    Attributes:
        parameters: numbers that training sets.
        multiply_adds: of one image's forward pass, in convolutions and matrix products.
    """

    parameters: int
    multiply_adds: int


def cost(name: str, *, size: int = 224, num_classes: int = 1000) -> Cost:
    """Counts a model of timm's, on the meta device, where it takes no memory.

    Raises:
        InputError: timm knows no such model.
    """
    check_model(name)
    with torch.device("meta"), torch.no_grad():
        model = timm.create_model(name, num_classes=num_classes).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, size, size))
    # torch counts a multiply-add as two.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters=parameters, multiply_adds=counter.get_total_flops() // 2)
