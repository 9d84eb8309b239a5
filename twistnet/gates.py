"""How far a TwistNet has opened its gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from twistnet.model import TwistBlock


@torch.no_grad()
def gates(model: nn.Module) -> dict[str, Any]:
    """{"gates": {block: 0 to 1}}: the share at which each twist block's interactions enter, for a row of the log.

    Empty for a model without gates. Waits for the device once.
    """
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, TwistBlock)}
    opened = {name: openness for name, block in blocks.items() if (openness := block.openness()) is not None}
    if not opened:
        return {}
    values = torch.stack(list(opened.values())).tolist()
    return {"gates": {name: round(value, 6) for name, value in zip(opened, values, strict=True)}}
