"""Small host arrays, brought to the device of the images."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A tensor of `array` on `device`, without waiting for the work that is queued there.

    The driver stages pageable memory before the call returns, so the array may go at once; a blocking copy would stall
    the host until everything queued before it has run.
    """
    return torch.from_numpy(array).to(device, non_blocking=True)
