"""Which of a model's parameters train: all of them, or the classifier on a frozen backbone."""

from __future__ import annotations

from torch import nn

from loaders import InputError


def classifiers(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that timm calls a model's classifier: one, or two where it was distilled.

    Raises:
        InputError: where it has none of its own.
    """
    found = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    heads = list(found) if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
    modules = [head for head in heads if isinstance(head, nn.Module) and any(True for _ in head.parameters())]
    if not modules:
        raise InputError(f"model {name} has no classifier of its own to train on a frozen backbone: take --tune all.")
    return modules


def freeze_backbone(model: nn.Module, name: str) -> None:
    """Leaves gradients to the classifier alone.

    Raises:
        InputError: where the model has none.
    """
    heads = classifiers(model, name)
    model.requires_grad_(False)
    for head in heads:
        head.requires_grad_(True)


def set_training(model: nn.Module, frozen: bool) -> None:
    """Puts a model, bare or wrapped for several ranks, into training.

    Where its backbone is frozen, only modules all of whose parameters train do, with all that they hold: batch norms
    elsewhere keep their statistics, and nothing is dropped at random there.
    """
    model.train(not frozen)
    for module in model.modules() if frozen else ():
        train = [parameter.requires_grad for parameter in module.parameters()]
        if train and all(train):
            module.train()
