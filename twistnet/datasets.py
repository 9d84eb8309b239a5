"""The data sets to fine-tune on."""

from __future__ import annotations

from typing import Literal, TypeAlias

Dataset: TypeAlias = Literal["dtd", "fmd", "kth", "cub", "flowers", "folder"]
FOLDS: dict[str, int] = {"dtd": 10, "fmd": 5, "kth": 4, "cub": 1, "flowers": 1, "folder": 5}
