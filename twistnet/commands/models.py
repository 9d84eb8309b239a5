"""`twistnet models`: what the models cost."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from loaders import InputError
from loaders.files import write_atomically
from twistnet.counting import Cost, cost
from twistnet.variants import NAMES


def models(*, models: tuple[str, ...] = (), size: int = 224, num_classes: int = 47, csv: Path | None = None) -> None:
    """Lists models with their parameters and multiply-adds, counted on the models themselves.

    Args:
        models: names of timm's; those of the guide and the paper, and TwistNet-18's variants unless given.
        size: side of the images in pixels.
        num_classes: classes of the second count of parameters.
        csv: file for the table, in whole numbers.
    """
    if size < 32 or num_classes < 1:
        raise InputError(f"--size {size} and --num_classes {num_classes} must be at least 32 and 1: raise them.")
    names = models or NAMES
    width = max(len(name) for name in names)
    print(f"{'model':<{width}}  {'parameters':>11}  {f'at {num_classes}':>11}  {f'GMACs at {size} px':>16}")
    costs = []
    for name in names:
        found = cost(name, size=size, num_classes=num_classes)
        costs.append(found)
        counts = f"{found.parameters_1000:>11,}  {found.parameters:>11,}"
        print(f"{name:<{width}}  {counts}  {found.multiply_adds / 1e9:>16.3f}", flush=True)
    print(
        f"Parameters with 1,000 and with {num_classes} classes. A GMAC is a thousand million multiply-adds, which the "
        "paper and timm's tables write as GFLOPs and GMACs: of convolutions and matrix products, and one an element of "
        "norms and products."
    )
    if csv is not None:
        _write(csv, costs)


def _write(path: Path, costs: list[Cost]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [field.name for field in dataclasses.fields(Cost)], lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(row) for row in costs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))
    except OSError as error:
        raise InputError(f"--csv {path} cannot be written ({error.strerror}): choose another.") from error
