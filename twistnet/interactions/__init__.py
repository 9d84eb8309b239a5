"""Second-order interactions in few passes over memory: what a twist block computes before its projection.

The operations are torch's to autograd, `torch.compile` and CUDA graphs: `interactions` and `scale_shift`, in
`operations`. On a card they are Triton's kernels, on a CPU a compiled library's loops; `DEVICES` are where they are.
"""

from __future__ import annotations

from twistnet.interactions.operations import DEVICES, interactions, scale_shift
from twistnet.interactions.pairs import EPS, HEAD_CHANNELS, INTERACTION_CHANNELS, PAIRS

__all__ = ["DEVICES", "EPS", "HEAD_CHANNELS", "INTERACTION_CHANNELS", "PAIRS", "interactions", "scale_shift"]
