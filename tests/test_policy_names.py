"""Policies by their short names."""

from __future__ import annotations

import pytest

from loaders.augment import ColorJitter, RandAugment, ThreeAugment, TimmRandAugment, TrivialAugment, policy_named
from loaders.errors import InputError


def test_policies_are_named() -> None:
    policy = policy_named("rand-m7-n3-mstd0.5-inc1")
    assert isinstance(policy, TimmRandAugment)
    assert (policy.magnitude, policy.num_ops, policy.magnitude_std, policy.probability) == (7.0, 3, 0.5, 0.5)
    assert policy.space == TimmRandAugment(increasing=True).space
    policy = policy_named("rand")
    assert isinstance(policy, TimmRandAugment)
    assert policy.magnitude == 10, "timm's, unless given"
    policy = policy_named("randaugment-n3-m12")
    assert isinstance(policy, RandAugment)
    assert (policy.num_ops, policy.magnitude) == (3, 12)
    assert isinstance(policy_named("trivialaugment"), TrivialAugment)
    assert isinstance(policy_named("threeaugment-j0.2"), ThreeAugment)
    assert isinstance(policy_named("colorjitter-b0.4"), ColorJitter)
    assert policy_named("none") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rand-m7-x3", "'x3'"),
        ("rand-m", "'m'"),
        ("rand-n2.5", "fraction"),
        ("original-m7", "'original-m7'"),
        ("randaugment-inc1", "'inc1'"),
        ("randaugment-m31", "31"),
        ("none-m3", "'none-m3'"),
        ("rand-m7-m8", "'m8'"),
        ("rand-inc2", "'inc2'"),
        ("randaugment-ninf", "'ninf'"),
        ("rand-m\uff17", "'m\uff17'"),
    ],
)
def test_unknown_names_are_refused(text: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        policy_named(text)
    assert named in str(refused.value)
