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
    def choose(cls, device: torch.device, amp: bool | None) -> Precision:
        """As `Recipe.amp` has it.

        Args:
            device: where the step computes.
            amp: True: bfloat16 where the device has it, else float16; False: float32; None: bfloat16 on a card that has
                it, else float32.
        """
        on_card = device.type == "cuda"
        has_bf16 = not on_card or torch.cuda.is_bf16_supported(including_emulation=False)
        if amp or (amp is None and on_card and has_bf16):
            return cls(device_type=device.type, dtype=torch.bfloat16 if has_bf16 else torch.float16)
        return cls(device_type=device.type, dtype=torch.float32)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> GradScaler:
        """A loss scaler, which does nothing unless float16 needs it."""
        return GradScaler(self.device_type, enabled=self.dtype == torch.float16)


def use_fast_kernels(device: torch.device) -> None:
    """Lets a card multiply float32 by TF32 and try out cuDNN's kernels, which pays where shapes stay the same."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
