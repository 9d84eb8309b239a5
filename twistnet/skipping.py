"""Steps whose gradient is not finite leave weights, optimiser and running statistics as they were.

Nothing waits for the device where the optimiser's kernels are fused, which can leave a step out by themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from twistnet.buffers import fill, flattened, statistics


class Skipped(NamedTuple):
    """What was skipped: the numbers of the `steps` since the last reading, and how many of the last `in_a_row`."""

    steps: list[int]
    in_a_row: int


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
        self._finite: list[Tensor] = []  # a () bool on the device for each step since the last reading
        self._first = 0  # of these steps
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=self._device)
        self._seen = torch.zeros((), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._copied: Any = torch.cuda.Event() if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]

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
        if not self._finite:
            self._first = step
        self._finite.append(finite)
        self._in_a_row = (self._in_a_row + 1) * ~finite
        fill(self._statistics, flattened(self._statistics, self._device).where(finite, self._kept))

    def exceed(self, limit: int, step: int) -> bool:
        """Whether more than `limit` steps in a row have been skipped; looked at every `limit` + 1 steps.

        To be called after every step with the number of steps taken; all ranks learn it at the same one. On a card this
        looks at what the look before asked for, which has long come by then: nothing waits.
        """
        if step % (limit + 1):
            return False
        if self._copied is None:
            return int(self._in_a_row) > limit
        self._copied.synchronize()
        exceeded = int(self._seen) > limit
        self._seen.copy_(self._in_a_row, non_blocking=True)
        self._copied.record()
        return exceeded

    def read(self) -> Skipped:
        """What was skipped since the last call; waits for the device."""
        finite = torch.stack(self._finite).tolist() if self._finite else []
        self._finite = []
        steps = [step for step, is_finite in enumerate(finite, self._first) if not is_finite]
        return Skipped(steps, int(self._in_a_row))
