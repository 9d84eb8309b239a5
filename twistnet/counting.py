"""What a model costs: parameters, and multiply-adds of a forward pass, counted and not typed in.

A multiply-add is one operation here, as in papers and in timm's tables, which write GFLOPs or GMACs for the same.
Counted are convolutions, linear layers and matrix products, one for each element that a norm writes, and one for each
product of two tensors element by element: those of channels in a twist block, and the weighing by attention. Sums,
activations and pooling are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from twistnet.building import create, try_size
from twistnet.stci import MultiHeadSTCI


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A model's size and work.

    Attributes:
        model: its name in timm.
        size: side of the images in pixels.
        num_classes: that it tells apart.
        parameters: with a classifier of `num_classes`.
        parameters_1000: with one of ImageNet's 1,000 classes.
        multiply_adds: of one image's forward pass in evaluation.
    """

    model: str
    size: int
    num_classes: int
    parameters: int
    parameters_1000: int
    multiply_adds: int


def cost(name: str, *, size: int = 224, num_classes: int = 1000) -> Cost:
    """Counts a model of timm's.

    Raises:
        InputError: where there is none of that name, or it cannot be built for these classes and images.
    """
    model = create(name, num_classes, size)
    try_size(model, name, size, "--size")
    whole = model if num_classes == 1000 else create(name, 1000, size)
    return Cost(
        model=name,
        size=size,
        num_classes=num_classes,
        parameters=parameters(model),
        parameters_1000=parameters(whole),
        multiply_adds=multiply_adds(model, size),
    )


def parameters(model: nn.Module) -> int:
    """Numbers of a model that training may set; running statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def multiply_adds(model: nn.Module, size: int) -> int:
    """Of the forward pass of one image of `size` pixels a side, as counted here; the model is as before."""
    training = model.training
    twists = [module for module in model.modules() if isinstance(module, MultiHeadSTCI)]
    plain = [twist.plain for twist in twists]
    for twist in twists:  # the fused kernels are no operations that torch knows
        twist.plain = True
    model.eval()
    try:
        # Attention by matrix products, for fused kernels are not counted on every device.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE) as counter:
            model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        model.train(training)
        for twist, before in zip(twists, plain, strict=True):
            twist.plain = before
    return int(counter.get_total_flops()) // 2


def _one_an_element(*_: Any, out_shape: Any, **__: Any) -> int:
    """In torch's unit, in which a multiply-add is two. Norms give their statistics too, after what they write."""
    shape: Sequence[Any] = out_shape
    return int(2 * prod(shape[0] if shape and not isinstance(shape[0], int) else shape))


_aten = torch.ops.aten
_ELEMENTWISE = dict.fromkeys(
    (
        *(_aten.mul, _aten.native_layer_norm, _aten.native_group_norm),
        *(_aten.native_batch_norm, _aten._native_batch_norm_legit_no_training, _aten.cudnn_batch_norm),
    ),
    _one_an_element,
)
