"""Bytes of any store to augmented batches on the device, the same whatever decodes them.

loader = loaders.open_loader("data/imagenet", "train", 256, train=True, augment=loaders.augment.Augment())
for batch in loader.epoch(0):
    ...
"""

from __future__ import annotations

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
