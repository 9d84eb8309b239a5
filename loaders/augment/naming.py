"""Policies by short names, as recipes and the command line give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from loaders.augment.jitter import ColorJitter, ThreeAugment
from loaders.augment.policy import Policy
from loaders.augment.randaugment import RandAugment, TimmRandAugment, TrivialAugment
from loaders.errors import InputError

_Key = tuple[str, Callable[[float], Any]]

# By name: the policy, and its arguments by the letters that stand before their values. "rand" is timm's own.
_POLICIES: Mapping[str, tuple[Callable[..., Policy], Mapping[str, _Key]]] = {
    "randaugment": (RandAugment, {"n": ("num_ops", int), "m": ("magnitude", int), "b": ("num_bins", int)}),
    "trivialaugment": (TrivialAugment, {"b": ("num_bins", int)}),
    "threeaugment": (ThreeAugment, {"j": ("color_jitter", float)}),
    "colorjitter": (ColorJitter, {"b": ("brightness", float), "c": ("contrast", float), "s": ("saturation", float)}),
    "rand": (
        TimmRandAugment,
        {
            "m": ("magnitude", float),
            "n": ("num_ops", int),
            "p": ("probability", float),
            "mstd": ("magnitude_std", float),
            "inc": ("increasing", lambda value: {0.0: False, 1.0: True}[value]),
        },
    ),
}


def policy_named(text: str) -> Policy | None:
    """The policy that `text` names.

    Args:
        text: "randaugment-n2-m9" (torchvision's), "rand-m7-n2-mstd0.5-inc1" (timm's, in timm's words),
            "trivialaugment", "threeaugment-j0.3" or "colorjitter-b0.4-c0.4-s0.4", where each part after the name may be
            left out; "none" is none.

    Raises:
        InputError: for a name or a part that is unknown, or a value that is impossible.
    """
    name, *parts = text.split("-")
    if text == "none":
        return None
    if name not in _POLICIES:
        raise InputError(f"policy {text!r} is unknown: choose none, or begin with one of {', '.join(_POLICIES)}.")
    policy, keys = _POLICIES[name]
    options = {}
    for part in parts:
        found = re.fullmatch(r"([a-z]+?)([0-9]+(?:\.[0-9]+)?|inf)", part)
        if not found or found[1] not in keys or keys[found[1]][0] in options:
            known = ", ".join(f"{key} ({argument})" for key, (argument, _) in keys.items())
            raise InputError(f"{part!r} in policy {text!r} is unknown or twice: give a number after one of {known}.")
        argument, kind = keys[found[1]]
        value = float(found[2])
        try:
            options[argument] = kind(value)
        except (KeyError, OverflowError) as error:
            raise InputError(
                f"{part!r} in policy {text!r} is impossible: inc takes 0 or 1, others a number."
            ) from error
        if kind is int and options[argument] != value:
            raise InputError(f"{part!r} in policy {text!r} has a fraction: give a whole number.")
    return policy(**options)
