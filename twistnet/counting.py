"""Parameters and FLOPs of a model, counted on it and never typed in."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from twistnet.building import check_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a model costs.

    Attributes:
        parameters: numbers that training sets.
        flops: multiply-adds of convolutions and matrix products for one image, as papers count FLOPs.
    """

    parameters: int
    flops: int


def count(model_name: str, num_classes: int, size: int) -> Counted:
    """Counts a model of timm's registry on the meta device, where it takes no memory.

    Args:
        model_name: as timm knows it.
        num_classes: outputs of its classifier.
        size: side of the image in pixels.

    Raises:
        InputError: timm knows no such model.
    """
    check_model(model_name)
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=num_classes).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.zeros(1, 3, size, size))
    # torch counts a multiply-add as two.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Counted(parameters=parameters, flops=counter.get_total_flops() // 2)
