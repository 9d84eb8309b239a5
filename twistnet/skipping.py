"""Steps whose gradient is not finite leave weights, optimiser and running statistics as they were.

Nothing waits for the device where the optimiser's kernels are fused, which can leave a step out by themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from twistnet.buffers import fill, flattened, statistics


class Skipped(NamedTuple):
    """What was skipped: `steps` of them since the last reading, from step `first` on, the last `in_a_row`."""

    steps: int
    in_a_row: int
    first: int


class Skipping:
    """Takes a step only where the gradient's norm is finite.

    Args:
        model: on its device; ranks skip alike, since their gradients are the same.
        optimiser: torch's, or timm's.
    """

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser
        self._statistics = statistics(model)
        self._device = next(model.parameters()).device
        self._kept = torch.zeros(0, device=self._device)
        # As Skipped, but for the first step + 1.
        self._counts = torch.zeros(3, dtype=torch.float64, device=self._device)

    def before(self) -> None:
        """To be called before the step's forward passes: keeps the running statistics, which these may spoil."""
        self._kept = flattened(self._statistics, self._device)

    def update(self, finite: Tensor) -> None:
        """Takes the optimiser's step where `finite`, () bool on the device, is true: whether the gradient's norm is."""
        if self._optimiser.param_groups[0].get("fused"):
            self._optimiser.found_inf = (~finite).float()  # type: ignore[attr-defined]  # as a loss scaler tells it
            self._optimiser.step()
            del self._optimiser.found_inf  # type: ignore[attr-defined]
        elif bool(finite):  # waits for the device, on a card for LAMB alone
            self._optimiser.step()

    def after(self, finite: Tensor, step: int) -> None:
        """To be called after the step with its number in the run: counts it, and brings the statistics back."""
        bad = (~finite).double()
        steps, in_a_row, first = self._counts
        self._counts = torch.stack((steps + bad, (in_a_row + 1) * bad, first.where((first > 0) | finite, step + 1.0)))
        fill(self._statistics, flattened(self._statistics, self._device).where(finite, self._kept))

    def read(self) -> Skipped:
        """What was skipped since the last call; waits for the device."""
        steps, in_a_row, first = (int(count) for count in self._counts.tolist())
        self._counts = self._counts * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64, device=self._counts.device)
        return Skipped(steps, in_a_row, first - 1)
