"""What others have measured on cards that are not at hand, and what the pretraining guide asks for.

A figure is "measured" (a row of bench/results), "published" (by others, with its source), "projected" (computed from
such figures) or "assumed" (an option of `bench plan` says otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["measured", "published", "projected", "assumed"]

IMAGENET_TRAIN, IMAGENET_VAL = 1_281_167, 50_000
# timm's benchmark on an RTX 3090, NHWC, AMP, 224 px: ResNet-18 3,482 and ResNet-50 1,218 images a second in training.
RESNET18_TO_RESNET50 = 3482 / 1218


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number, what kind it is, and where it is from."""

    value: float
    kind: Kind
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A kind of accelerator.

    Attributes:
        alone: images a second of ResNet-18's training at 224 px in mixed precision, where it is the only card.
        in_eight: the same of each of eight.
        cores: of the host for each card, assumed.
        fabric_gb_per_s: between cards of a host in an all-reduce, assumed.
    """

    alone: Figure
    in_eight: Figure
    cores: int
    fabric_gb_per_s: float

    def resnet18(self, cards: int) -> Figure:
        """Of each of so many: the rate of eight where there are several, on the safe side."""
        return self.alone if cards == 1 else self.in_eight


def _from_resnet50(rate: float, source: str) -> Figure:
    return Figure(
        value=rate * RESNET18_TO_RESNET50,
        kind="projected",
        source=f"ResNet-50 at {rate:,.0f} ({source}) times {RESNET18_TO_RESNET50:.2f}, timm's ratio on an RTX 3090",
    )


_RTX_3090 = Figure(value=3482, kind="published", source="timm, results/benchmark-train, one RTX 3090, AMP, NHWC")
_DEEP = "NVIDIA DeepLearningExamples, PyTorch, mixed precision"
_H100 = _from_resnet50(57_300 / 8, "MLPerf training v4.0, one of 8 H100")
_H200 = _from_resnet50(63_500 / 8, "MLPerf training v4.0, one of 8 H200")
CARDS = {
    "RTX 3090": Card(alone=_RTX_3090, in_eight=_RTX_3090, cores=8, fabric_gb_per_s=10.0),
    "A100": Card(
        alone=_from_resnet50(2470, f"{_DEEP}, one A100"),
        in_eight=_from_resnet50(16_621 / 8, f"{_DEEP}, one of 8 A100"),
        cores=16,
        fabric_gb_per_s=100.0,
    ),
    "H100": Card(alone=_H100, in_eight=_H100, cores=16, fabric_gb_per_s=150.0),
    "H200": Card(alone=_H200, in_eight=_H200, cores=16, fabric_gb_per_s=150.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A line of the guide's hardware table: days for 600 and for 300 epochs."""

    card: str
    cards: int
    days_600: float
    days_300: float


GUIDE = (
    Target(card="RTX 3090", cards=1, days_600=14, days_300=7),
    Target(card="RTX 3090", cards=4, days_600=4, days_300=2),
    Target(card="A100", cards=4, days_600=3, days_300=1.5),
    Target(card="A100", cards=8, days_600=1.5, days_300=1),
)
