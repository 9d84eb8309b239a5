"""Bytes of any store to augmented batches on the device, the same whatever decodes them.

loader = loaders.open_loader("data/imagenet", "train", 256, train=True, augment=loaders.augment.Augment())
for batch in loader.epoch(0):
    ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.crops import CropPolicy
    from loaders.errors import InputError, SampleError
    from loaders.opening import open_loader, open_store
    from loaders.order import Order
    from loaders.types import Batch, Decoder, Loader, Store

__all__ = [
    "Batch",
    "CropPolicy",
    "Decoder",
    "InputError",
    "Loader",
    "Order",
    "SampleError",
    "Store",
    "open_loader",
    "open_store",
]

# Imported when first used, so that the command line can tell of a broken torch instead of failing with it.
_MODULES = {
    "CropPolicy": "crops",
    "InputError": "errors",
    "SampleError": "errors",
    "open_loader": "opening",
    "open_store": "opening",
    "Order": "order",
    "Batch": "types",
    "Decoder": "types",
    "Loader": "types",
    "Store": "types",
}


def __getattr__(name: str) -> Any:
    if name == "augment":
        return importlib.import_module("loaders.augment")
    if name not in _MODULES:
        raise AttributeError(f"module 'loaders' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"loaders.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
