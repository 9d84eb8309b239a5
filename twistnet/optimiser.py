"""The optimiser of a recipe: torch's SGD, with parameter groups by shape rather than by name."""

from __future__ import annotations

import torch
from torch import nn

from twistnet.recipe import Recipe


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over two groups: what is decayed, and norms and biases where the recipe spares them.

    A parameter of at most one dimension is a norm, a bias or a gate; a model names others that are to be spared in
    `no_weight_decay()`, as timm's do. The fused kernel is used on a card, since it keeps the loss scaler's check there.
    """
    spared_names: set[str] = getattr(model, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and name not in spared_names
            (decayed if plain or recipe.decay_norms_and_biases else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=0.0,  # set before every step, from the schedule
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=decayed[0].is_cuda,
    )
