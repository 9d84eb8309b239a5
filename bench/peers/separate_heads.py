"""The interaction as the paper's code computes it, as the peer of ours: head by head, an operation at a time.

Written from the description of the authors' code: each head has a 1x1 convolution, a batch norm and a depthwise
convolution of its own, indexes its channels for the products, and all heads are concatenated, weighed, normalised and
projected by torch's own modules.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from twistnet.interactions import EPS, HEAD_CHANNELS, INTERACTION_CHANNELS
from twistnet.model import TwistBlock
from twistnet.stci import InteractionSelection, SpiralTwist


class _Head(nn.Module):
    first: Tensor
    second: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False), nn.BatchNorm2d(HEAD_CHANNELS), nn.ReLU(inplace=True)
        )
        self.twist = SpiralTwist(1)
        first, second = torch.triu_indices(HEAD_CHANNELS, HEAD_CHANNELS)
        self.register_buffer("first", first)
        self.register_buffer("second", second)

    def forward(self, h: Tensor) -> Tensor:
        z = self.reduce(h)
        twisted = functional.normalize(self.twist(z), dim=1, eps=EPS)
        z = functional.normalize(z, dim=1, eps=EPS)
        return torch.cat((z, z[:, self.first] * twisted[:, self.second]), dim=1)


class SeparateHeads(nn.Module):
    """What a twist block adds, before its gate.

    Shapes: (B, channels, H, W) -> the same.
    """

    def __init__(self, channels: int, num_heads: int = 4) -> None:
        super().__init__()
        width = num_heads * INTERACTION_CHANNELS
        self.heads = nn.ModuleList(_Head(channels) for _ in range(num_heads))
        self.ais = InteractionSelection(width)
        self.norm = nn.GroupNorm(22, width)
        self.proj = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, h: Tensor, gate: Tensor | None = None) -> Tensor:
        """The interactions of h, multiplied by `gate` where one is given."""
        found = torch.cat([head(h) for head in self.heads], dim=1)
        out: Tensor = self.proj(self.norm(self.ais(found)))
        return out if gate is None else gate * out


def twistnet18(num_classes: int = 1000) -> nn.Module:
    """TwistNet-18 with such interactions."""
    model: nn.Module = timm.create_model("twistnet18", num_classes=num_classes)
    for block in model.modules():
        if isinstance(block, TwistBlock):
            block.mhstci = SeparateHeads(block.conv2.out_channels)  # type: ignore[assignment]
    return model
