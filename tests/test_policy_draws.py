"""What policies draw: against torchvision's, timm's and scipy's own, and every draw independent of the others."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
from independence import correlation, is_independent
from PIL import Image
from scipy import stats
from timm.data import auto_augment, rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2

from loaders.augment import ColorJitter, Erase, Policy, RandAugment, ThreeAugment, TimmRandAugment, TrivialAugment
from loaders.draws import OpDraws

MANY = np.arange(100_000)


def recorded(transform: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What torchvision's transform applies to `count` images: names and magnitudes."""
    found = []

    def record(image: Tensor, name: str, magnitude: float, **_: Any) -> Tensor:
        found.append((name, round(float(magnitude), 4)))
        return image

    monkeypatch.setattr(transform, "_apply_image_or_video_transform", record)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    torch.manual_seed(0)
    for _ in range(count):
        transform(image)
    return found


@pytest.mark.parametrize(
    ("policy", "reference"),
    [(RandAugment(), v2.RandAugment()), (TrivialAugment(), v2.TrivialAugmentWide())],
    ids=["RandAugment", "TrivialAugment"],
)
def test_operations_bins_and_signs_are_distributed_as_torchvisions(
    policy: Policy, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = recorded(reference, 20_000, monkeypatch)
    draws = policy.draw(0, 0, MANY)
    ours = []
    for op, operation in enumerate(policy.space):
        where = draws.ops == op
        magnitudes = operation.magnitudes(draws.levels[where], 64, 64)
        signed = magnitudes * draws.signs[where] if operation.signed else magnitudes
        ours += [(operation.name, round(float(magnitude), 4)) for magnitude in signed]
    assert set(theirs) <= set(ours)
    keys = sorted(set(ours))
    table = [[found.count(key) for key in keys] for found in (theirs, ours)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_no_draw_is_shared_within_a_batch() -> None:
    draws = RandAugment().draw(0, 0, MANY)
    for column in (*draws.ops.T, *draws.signs.T):  # neighbours, and the two operations of a sample, are independent
        values, codes = np.unique(column, return_inverse=True)
        table = np.zeros((len(values),) * 2)
        np.add.at(table, (codes[:-1], codes[1:]), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-4
    table = np.zeros((14, 14))
    np.add.at(table, tuple(draws.ops.T), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def timm_recorded(config: str, count: int, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, float, int]]]:
    """What timm's transform applies to each of `count` images: operations, levels, and signs, 0 where none is drawn."""
    transform = rand_augment_transform(config, {})
    random.seed(0)
    np.random.seed(0)  # timm draws from both
    found: list[list[tuple[int, float, int]]] = []
    level, sign, negate = 0.0, 0, auto_augment._randomly_negate

    def negated(value: float) -> float:
        nonlocal sign
        sign = -1 if negate(value) < 0 else 1
        return sign * value

    def arguments(value: float, hparams: dict[str, Any], of: Any) -> tuple[Any, ...]:
        nonlocal level, sign
        level, sign = value, 0
        return tuple(of(value, hparams)) if of else ()

    def apply(picture: Image.Image, *_: Any, op: int, **__: Any) -> Image.Image:
        found[-1].append((op, level, sign))
        return picture

    monkeypatch.setattr(auto_augment, "_randomly_negate", negated)
    for op, operation in enumerate(transform.ops):
        operation.level_fn = partial(arguments, of=operation.level_fn)
        operation.aug_fn = partial(apply, op=op)
    picture = Image.new("RGB", (4, 4))
    for _ in range(count):
        found.append([])
        transform(picture)
    return found


def test_timms_draws_go_together_as_timms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = timm_recorded("rand-m7-n2-mstd0.5-inc1", 40_000, monkeypatch)
    policy = TimmRandAugment(magnitude=7, magnitude_std=0.5, increasing=True)
    draws, space = policy.draw(0, 0, MANY), policy.space
    rows = zip(draws.ops.tolist(), draws.levels.tolist(), draws.signs.tolist(), strict=True)
    ours = [
        [(op, level, sign * space[op].signed) for op, level, sign in zip(*row, strict=True) if op != len(space) - 1]
        for row in rows
    ]

    def counted(of: Callable[[list[tuple[int, float, int]]], Any]) -> float:
        """How likely counts are that differ as much."""
        both = [Counter(str(of(row)) for row in found) for found in (theirs, ours)]
        assert set(both[0]) == set(both[1])
        return float(stats.chi2_contingency([[each[key] for key in both[0]] for each in both]).pvalue)

    assert counted(len) > 1e-3, "how many are applied"
    assert counted(lambda row: tuple(op for op, _, _ in row)) > 1e-3, "which"
    assert counted(lambda row: row and (row[0][0], row[0][2])) > 1e-3, "which way"
    assert counted(lambda row: tuple(sign for _, _, sign in row)) > 1e-3, "both ways"
    steps = [[row[1][1] - row[0][1] for row in found if len(row) == 2] for found in (theirs, ours)]
    assert stats.ks_2samp(*steps).pvalue > 1e-3, "how strong the second is beside the first"


def columns(policy: Policy | Erase) -> dict[str, np.ndarray]:
    """Its draws of many samples by what each decides: (B,) numbers, or (B, n) that may know each other."""
    if isinstance(policy, Erase):
        boxes, colours = policy.draw(0, 0, MANY, 96)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        return {"red": colours[:, 0], "green": colours[:, 1], "blue": colours[:, 2], "area": area}
    draws = policy.draw(0, 0, MANY)
    if isinstance(policy, ColorJitter | ThreeAugment):
        order = draws.ops[:, -3:].argsort(axis=1)  # where brightness, contrast and saturation stand
        factors = np.take_along_axis(draws.levels[:, -3:], order, axis=1)
        first = {"first": draws.ops[:, 0], "sigma": draws.levels[:, 0]} if isinstance(policy, ThreeAugment) else {}
        return {**first, "order": order, **{f"factor {op}": factors[:, op] for op in range(3)}}
    found = {name: each.T for name, each in zip(OpDraws._fields, draws, strict=True)}
    if isinstance(policy, TimmRandAugment):
        found["applied"] = found.pop("ops") != len(policy.space) - 1
    if isinstance(policy, RandAugment):
        assert (found.pop("levels") == policy.magnitude).all()
    return {f"{name} {place}": one for name, places in found.items() for place, one in enumerate(places)}


@pytest.mark.parametrize(
    "policy",
    [
        RandAugment(num_ops=3),
        TrivialAugment(),
        TimmRandAugment(magnitude=7, num_ops=3, magnitude_std=0.5),
        TimmRandAugment(magnitude=7, magnitude_std=math.inf),
        ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        ThreeAugment(),
        Erase(probability=1.0, mode="rand"),
    ],
    ids=["RandAugment", "TrivialAugment", "timm", "timm, uniform", "ColorJitter", "ThreeAugment", "Erase"],
)
def test_no_draw_knows_another(policy: Policy | Erase) -> None:
    """Neither of the same sample, nor of the one before it."""
    found = {name: each.reshape(len(MANY), -1) for name, each in columns(policy).items()}
    for (name, one), (other_name, other) in combinations(found.items(), 2):
        assert is_independent(correlation(one, other), len(MANY)), f"{name} and {other_name}"
    everything = np.concatenate(list(found.values()), axis=1)
    assert is_independent(correlation(everything[1:], everything[:-1]), len(MANY))


def test_timms_draws() -> None:
    policy = TimmRandAugment(magnitude=7, num_ops=2, magnitude_std=0.5)
    draws = policy.draw(0, 0, MANY)
    applied = draws.ops != len(policy.space) - 1
    assert stats.binomtest(int(applied.sum()), applied.size, 0.5).pvalue > 1e-3
    assert stats.chisquare(np.bincount(draws.ops[applied], minlength=15)).pvalue > 1e-3
    assert stats.kstest(draws.levels[:, 0], stats.norm(7, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(draws.levels[:, 1], stats.norm(7, 0.5).cdf).pvalue > 1e-3
    levels = TimmRandAugment(magnitude=9, magnitude_std=3.0).draw(0, 0, MANY).levels
    assert levels.max() == 10.0
    assert abs((levels == 10).mean() - stats.norm(9, 3).sf(10)) < 0.005, "cut off where timm does"
    uniform = TimmRandAugment(magnitude=6, magnitude_std=math.inf).draw(0, 0, MANY).levels
    assert stats.kstest(uniform[:, 0], stats.uniform(0, 6).cdf).pvalue > 1e-3
    assert (TimmRandAugment(magnitude=4).draw(0, 0, MANY).levels == 4).all()


def test_jitters_draws() -> None:
    draws = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.0).draw(0, 0, MANY)
    orders = np.array([list(permutations(range(3))).index(tuple(order)) for order in draws.ops.tolist()])
    assert stats.chisquare(np.bincount(orders, minlength=6)).pvalue > 1e-3
    for op, low, high in ((0, 0.6, 1.4), (1, 0.0, 2.5)):
        assert stats.kstest(draws.levels[draws.ops == op], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert (draws.levels[draws.ops == 2] == 1).all()
    three = ThreeAugment().draw(0, 0, MANY)
    assert stats.chisquare(np.bincount(three.ops[:, 0], minlength=3)).pvalue > 1e-3
    assert stats.kstest(three.levels[:, 0], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_erasing_is_distributed_as_torchvisions() -> None:
    erase = Erase(probability=1.0)
    ours = erase.draw(0, 0, np.arange(8000), 96).boxes
    torch.manual_seed(0)
    image, transform = torch.zeros(3, 96, 96), v2.RandomErasing(p=1.0, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3))
    theirs = []
    for _ in range(8000):
        params = transform.make_params([image])
        theirs.append([params[key] for key in "ijhw"])
    theirs = np.array(theirs)
    for column, mine in enumerate((ours[:, 0], ours[:, 1], ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1])):
        assert stats.ks_2samp(mine, theirs[:, column]).pvalue > 1e-3
    some = Erase(probability=0.3).draw(0, 0, MANY, 96).boxes
    assert stats.binomtest(int((some[:, 2] > 0).sum()), len(MANY), 0.3).pvalue > 1e-3
