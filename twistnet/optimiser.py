"""The optimiser of a recipe: torch's SGD or AdamW, or timm's LAMB, with parameter groups by shape, not by name."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from twistnet.recipe import Recipe


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's over two groups: what is decayed, and norms and biases where the recipe spares them.

    With layer-wise rates there are two such groups a layer, each with the factor "lr_scale" of the schedule's rate. A
    parameter of at most one dimension is a norm, a bias or a gate; a model names others that are to be spared in
    `no_weight_decay()`, as timm's do. torch's fused kernels leave a step out by themselves where its gradient is not
    finite, so that nothing waits for the device to hear of it.
    """
    spared_names: set[str] = getattr(model, "no_weight_decay", set)()
    if recipe.layer_decay in (0, 1):
        groups = _groups(model, recipe, spared_names)
    else:
        groups = param_groups_layer_decay(
            model,
            weight_decay=recipe.weight_decay,
            no_weight_decay_list=() if recipe.decay_norms_and_biases else spared_names,
            weight_decay_exclude_1d=not recipe.decay_norms_and_biases,
            layer_decay=recipe.layer_decay,
        )
    lr = 0.0  # set before every step, from the schedule
    if recipe.optimiser == "lamb":
        lamb: torch.optim.Optimizer = create_optimizer_v2(groups, opt="lamb", lr=lr)
        return lamb
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True)
    if recipe.momentum:
        # As a first step would make them: the fused one leaves them unset where it is the one that is skipped.
        for group in groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Sets the rate of the next step, each group's share of it where layers have rates of their own."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _groups(model: nn.Module, recipe: Recipe, spared_names: set[str]) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and name not in spared_names
            (decayed if plain or recipe.decay_norms_and_biases else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
