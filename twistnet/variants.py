"""More names for timm: TwistNet-18 with other heads, stages and gates, and the paper's short names of timm's models."""

from __future__ import annotations

import dataclasses
from typing import Any

import timm
from timm.models import generate_default_cfgs, get_pretrained_cfg, register_model
from torch import nn

from twistnet.model import TwistNet, create, default_cfg
from twistnet.model import default_cfgs as paper_cfgs

__all__: list[str] = []  # register_model appends the entry points

# The names that timm gives to what the paper calls otherwise.
ALIASES = {"swin_tiny": "swin_tiny_patch4_window7_224"}
TWISTNETS = (
    "twistnet18",
    *("twistnet18_no_spiral", "twistnet18_no_ais", "twistnet18_first_order"),
    *("twistnet18_h1", "twistnet18_h2", "twistnet18_h8"),
    *("twistnet18_s4", "twistnet18_s234", "twistnet18_s1234"),
    *("twistnet18_fixed_gate", "twistnet18_no_gate"),
)
BASELINES = (
    *("resnet18", "seresnet18", "convnextv2_nano", "fastvit_sa12", "repvit_m1_5"),
    *("convnext_tiny", "swin_tiny"),
)
NAMES = (*BASELINES, *TWISTNETS)

default_cfgs = generate_default_cfgs(
    {name: default_cfg() for name in TWISTNETS if name not in paper_cfgs}
    | {name: dataclasses.asdict(timms) for name, known in ALIASES.items() if (timms := get_pretrained_cfg(known))}
)


def twistnet18_h1(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with one head, which looks to the right."""
    return create("twistnet18_h1", pretrained, **{"num_heads": 1, **kwargs})


def twistnet18_h2(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with two heads, at 0 and 45 degrees."""
    return create("twistnet18_h2", pretrained, **{"num_heads": 2, **kwargs})


def twistnet18_h8(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with eight heads, two for each direction."""
    return create("twistnet18_h8", pretrained, **{"num_heads": 8, **kwargs})


def twistnet18_s4(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with twist blocks in the last stage alone."""
    return create("twistnet18_s4", pretrained, **{"twist_stages": (4,), **kwargs})


def twistnet18_s234(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with twist blocks in all stages but the first."""
    return create("twistnet18_s234", pretrained, **{"twist_stages": (2, 3, 4), **kwargs})


def twistnet18_s1234(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 with twist blocks in all stages."""
    return create("twistnet18_s1234", pretrained, **{"twist_stages": (1, 2, 3, 4), **kwargs})


def twistnet18_fixed_gate(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 whose gates are not learned: interactions enter at 12 % throughout."""
    return create("twistnet18_fixed_gate", pretrained, **{"gate": "fixed", **kwargs})


def twistnet18_no_gate(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 without gates: interactions enter whole."""
    return create("twistnet18_no_gate", pretrained, **{"gate": "none", **kwargs})


def swin_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's Swin-T with windows of 7 at 224 pixels."""
    model: nn.Module = timm.create_model(ALIASES["swin_tiny"], pretrained=pretrained, **kwargs)
    return model


for _entry in (
    *(twistnet18_h1, twistnet18_h2, twistnet18_h8),
    *(twistnet18_s4, twistnet18_s234, twistnet18_s1234),
    *(twistnet18_fixed_gate, twistnet18_no_gate),
    swin_tiny,
):
    register_model(_entry)
