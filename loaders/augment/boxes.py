"""Boxes as masks."""

from __future__ import annotations

import torch
from torch import Tensor


def inside_of(boxes: Tensor, height: int, width: int) -> Tensor:
    """(N, 1, height, width) whether a pixel lies in its sample's box of top, left, bottom and right: (N, 4)."""
    top, left, bottom, right = (edge.view(-1, 1, 1, 1) for edge in boxes.unbind(1))
    row = torch.arange(height, device=boxes.device).view(1, 1, -1, 1)
    column = torch.arange(width, device=boxes.device).view(1, 1, 1, -1)
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)
