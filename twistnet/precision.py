"""Mixed precision, chosen once for a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.amp.grad_scaler import GradScaler


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What a step computes in.

    Attributes:
        device_type: "cpu" or "cuda".
        dtype: of the images and of autocast's operations; float32 where mixed precision is off.
    """

    device_type: str
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: torch.device, amp: bool) -> Precision:
        """bfloat16 where the device has it, else float16; float32 without `amp`."""
        if not amp:
            return cls(device_type=device.type, dtype=torch.float32)
        has_bf16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(device_type=device.type, dtype=torch.bfloat16 if has_bf16 else torch.float16)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> GradScaler:
        """A loss scaler, which does nothing unless float16 needs it."""
        return GradScaler(self.device_type, enabled=self.dtype == torch.float16)
