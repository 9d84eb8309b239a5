"""A table of operations applied to a batch, by what is fastest where the images are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from loaders.augment import on_cpu
from loaders.augment.kinds import IDENTITY
from loaders.augment.ops import OPERATIONS
from loaders.augment.table import Table
from loaders.augment.upload import upload


def run_operations(images: Tensor, table: Table) -> Tensor:
    """The images after their operations: new ones, of the shape and on the device of `images`.

    Args:
        images: (B, H, W, 3) uint8; they are not changed.
        table: of these B samples.
    """
    if images.is_cuda:
        from loaders.augment import fused  # Triton

        return fused.operated(images.contiguous(), fused.DeviceTable.of(table, images.device))
    if images.device.type == "cpu" and on_cpu.is_there():
        return on_cpu.operated(images.contiguous(), table)
    return plainly(images, table)


def plainly(images: Tensor, table: Table) -> Tensor:
    """The same in plain torch: samples whose operations are of one kind go through it together."""
    if not len(images):
        return images.clone()
    fill = upload(np.array(table.fill, dtype=np.uint8), images.device)
    for slot in range(table.kinds.shape[1]):
        kinds = table.kinds[:, slot]
        # Sorted on the host, where the draws are, so that the device is asked for nothing; every group then lies in one
        # piece and is handed on without a copy.
        order = np.argsort(kinds, kind="stable")
        groups, sizes = np.unique(kinds, return_counts=True)
        to_groups = upload(order, images.device)
        in_groups = images.index_select(0, to_groups)
        parameters = upload(table.parameters[order, slot], images.device)
        pieces = [
            members if kind == IDENTITY else OPERATIONS[kind](members, own, fill)
            for kind, members, own in zip(
                groups.tolist(),
                torch.split(in_groups, sizes.tolist()),
                torch.split(parameters, sizes.tolist()),
                strict=True,
            )
        ]
        images = torch.cat(pieces).index_select(0, upload(np.argsort(order), images.device))
    return images
