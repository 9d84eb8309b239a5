"""Policies of augmentation: their pixels on every path, as modules and in an `Augment`."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from loaders.augment import (
    Augment,
    ColorJitter,
    Erase,
    Mix,
    Policy,
    RandAugment,
    ThreeAugment,
    TimmRandAugment,
    TrivialAugment,
    on_cpu,
)
from loaders.augment.running import plainly, run_operations
from loaders.draws import CUTMIX, MIXUP, OpDraws
from loaders.errors import InputError

POLICIES: dict[str, Policy] = {
    "RandAugment": RandAugment(num_ops=3, magnitude=20, fill=(9, 200, 30)),
    "TrivialAugment": TrivialAugment(),
    "timm": TimmRandAugment(magnitude=7, magnitude_std=0.5, increasing=True, probability=0.8),
    "timm, nearest": TimmRandAugment(magnitude=5, magnitude_std=math.inf, interpolated=False, probability=1.0),
    "ColorJitter": ColorJitter(brightness=0.4, contrast=0.5, saturation=0.6),
    "ThreeAugment": ThreeAugment(),
}


def images_of(count: int, height: int, width: int) -> Tensor:
    """Crops of photographs, every fourth random bytes, every seventh constant: (count, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    sources = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    found = []
    for place in range(count):
        source = sources[place % 3]
        top, left = (
            int(rng.integers(0, side - size)) for side, size in zip(source.shape, (height, width), strict=False)
        )
        image = source[top : top + height, left : left + width]
        if place % 4 == 3:
            image = rng.integers(0, 256, image.shape)
        found.append(np.full_like(image, place) if place % 7 == 6 else image)
    return torch.from_numpy(np.stack(found).astype(np.uint8))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(("height", "width"), [(96, 96), (61, 83), (16, 17)])
def test_the_compiled_path_is_the_plain_one(policy: Policy, height: int, width: int) -> None:
    images = images_of(128, height, width)
    before = images.clone()
    table = policy.table(policy.draw(0, 0, np.arange(128)), height, width)
    assert torch.equal(run_operations(images, table), plainly(images, table))
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_whole_is_the_plain_one(dtype: torch.dtype) -> None:
    images = images_of(64, 48, 48)
    for augment in (
        Augment(policy=RandAugment(), erase=Erase(probability=0.7, mode="rand"), mix=Mix(mixup_alpha=0.8), dtype=dtype),
        Augment(erase=Erase(probability=1.0), dtype=dtype),
        Augment(mix=Mix(mode="batch"), dtype=dtype),
    ):
        draws = augment.draw(1, 2, np.arange(64), 48)
        assert torch.equal(augment(images, draws), augment.plainly(images, draws))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_sample_is_augmented_alike_in_any_batch(policy: Policy) -> None:
    images, ids = images_of(24, 40, 40), np.random.default_rng(0).permutation(1000)[:24]
    whole = run_operations(images, policy.table(policy.draw(7, 3, ids), 40, 40))
    order = np.random.default_rng(1).permutation(24)
    for part in (order[:1], order[5:12], order):
        table = policy.table(policy.draw(7, 3, ids[part]), 40, 40)
        assert torch.equal(run_operations(images[part], table), whole[part])


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_is_a_module(policy: Policy) -> None:
    images = images_of(12, 40, 56).permute(0, 3, 1, 2)
    assert isinstance(policy, torch.nn.Module)
    torch.manual_seed(5)
    first = policy(images)
    assert (first.shape, first.dtype) == (images.shape, torch.uint8)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(policy(images), first), "drawn anew"
    torch.manual_seed(5)
    assert torch.equal(policy(images.contiguous()), first), "repeated, whatever the memory format"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_module_draws_for_every_image_by_itself(policy: Policy) -> None:
    """One image many times over becomes as many images as one sample does over as many epochs."""
    count = 256
    image = images_of(1, 40, 56).permute(0, 3, 1, 2)
    torch.manual_seed(7)
    together = policy(image.expand(count, -1, -1, -1))
    apart = torch.cat([policy(image, policy.draw(1, epoch, np.zeros(1, np.int64))) for epoch in range(count)])
    shown, expected = (len(torch.unique(each.flatten(1), dim=0)) for each in (together, apart))
    assert expected > 50
    assert shown == pytest.approx(expected, rel=0.15)


def test_a_module_refuses_what_is_no_uint8_batch() -> None:
    for images in (
        torch.rand(2, 3, 8, 8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 8, 8).byte(),
        torch.zeros(2, 3, 5, 0).byte(),
    ):
        with pytest.raises(InputError, match=r"give uint8 images of shape \(B, 3, H, W\)"):
            TrivialAugment()(images)


def jittered(image: Tensor, draws: OpDraws, row: int, policy: Policy) -> Tensor:
    """The same operations by torchvision, on a (3, H, W) image."""
    for op, level in zip(draws.ops[row], draws.levels[row], strict=True):
        name = policy.space[op].name
        if name == "GaussianBlur":
            image = F.gaussian_blur(image, [13, 13], [float(level)] * 2)
        elif name == "SolarizeFrom":
            image = F.solarize(image, 128)
        elif name == "Grayscale":
            image = F.rgb_to_grayscale(image, num_output_channels=3)
        else:
            adjust = {"Brightness": F.adjust_brightness, "Contrast": F.adjust_contrast, "Color": F.adjust_saturation}
            image = adjust[name](image, float(level))
    return image


@pytest.mark.parametrize("name", ["ColorJitter", "ThreeAugment"])
def test_jitter_is_torchvisions_sequence(name: str) -> None:
    policy, images = POLICIES[name], images_of(48, 64, 72).permute(0, 3, 1, 2).contiguous()
    draws = policy.draw(0, 0, np.arange(48))
    ours = policy(images, draws)
    theirs = torch.stack([jittered(image, draws, row, policy) for row, image in enumerate(images)])
    # Not equality: torchvision's blends round by a value's place, and its blur sums in another order.
    assert (ours != theirs).float().mean() < 1e-3
    assert set(draws.ops.ravel()) == set(range(len(policy.space)))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 2.0])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (16, 40), (96, 64)])
def test_blur_is_torchvisions_within_a_level(sigma: float, height: int, width: int) -> None:
    images, policy = images_of(12, height, width), ThreeAugment(color_jitter=0.0)
    ops = np.tile([2, 3, 4, 5], (12, 1))
    draws = OpDraws(ops, np.where(ops == 2, sigma, 1.0), np.ones_like(ops))
    ours = policy(images.permute(0, 3, 1, 2), draws)
    theirs = F.gaussian_blur(images.permute(0, 3, 1, 2).contiguous(), [13, 13], [sigma, sigma])
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("mode", ["const", "rand"])
def test_erasing_sets_its_box_and_nothing_else(mode: str) -> None:
    images, ids = images_of(32, 40, 40), np.arange(32)
    augment = Augment(erase=Erase(probability=0.6, mode=mode))
    draws = augment.draw(0, 0, ids, 40)
    assert draws.erase is not None
    expected = Augment()(images, Augment().draw(0, 0, ids, 40)).numpy().copy()
    for row, (top, left, bottom, right) in enumerate(draws.erase.boxes):
        expected[row, :, top:bottom, left:right] = draws.erase.colours[row][:, None, None]
    np.testing.assert_array_equal(augment(images, draws).numpy(), expected)
    assert (draws.erase.boxes[:, 2] == 0).any()
    assert draws.erase.colours.any() == (mode == "rand")


def test_a_batch_can_be_mixed_as_one() -> None:
    mix = Mix(mixup_alpha=0.8, mode="batch")
    kinds = []
    for step in range(400):
        draws = mix.draw(0, step, np.arange(16), 64)
        assert len(set(draws.kind)) == len(set(draws.weight)) == len(np.unique(draws.boxes, axis=0)) == 1
        assert (np.sort(draws.partner) == np.arange(16)).all()
        kinds.append(draws.kind[0])
    assert stats.binomtest(kinds.count(CUTMIX), 400).pvalue > 1e-3
    assert set(kinds) == {MIXUP, CUTMIX}


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (TrivialAugment, {"num_bins": 1}, "1"),
        (TrivialAugment, {"fill": (0, 0, 256)}, "256"),
        (TimmRandAugment, {"magnitude": 11}, "11"),
        (TimmRandAugment, {"num_ops": 0}, "0"),
        (TimmRandAugment, {"magnitude_std": -1}, "-1"),
        (TimmRandAugment, {"probability": 1.1}, "1.1"),
        (ColorJitter, {"contrast": -0.1}, "-0.1"),
        (ThreeAugment, {"color_jitter": math.nan}, "nan"),
        (Erase, {"probability": 2}, "2"),
        (Erase, {"scale": (0.3, 0.1)}, "0.3"),
        (Erase, {"ratio": (0.0, 1.0)}, "0.0"),
        (Erase, {"mode": "pixel"}, "pixel"),
        (Mix, {"mode": "pair"}, "pair"),
        (Mix, {"group": 2.5}, "2.5"),
        (Augment, {"policy": "randaugment"}, "'randaugment'"),
        (Augment, {"mix": "batch"}, "'batch'"),
        (Augment, {"erase": 0.25}, "0.25"),
    ],
)
def test_impossible_values_are_refused(make: type, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as refused:
        make(**options)
    message = str(refused.value)
    assert named in message
    assert message.endswith(".")
    assert "\n" not in message


def test_without_the_compiled_library_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    augment, images = Augment(policy=RandAugment(), mix=Mix()), images_of(16, 32, 32)
    draws = augment.draw(0, 0, np.arange(16), 32)
    torch.manual_seed(1)
    compiled = augment(images, draws), RandAugment()(images.permute(0, 3, 1, 2))
    monkeypatch.setattr(on_cpu, "is_there", lambda: False)
    monkeypatch.setattr(on_cpu, "library", lambda: pytest.fail("the library was called"))
    torch.manual_seed(1)
    for right, found in zip(compiled, (augment(images, draws), RandAugment()(images.permute(0, 3, 1, 2))), strict=True):
        assert torch.equal(right, found)


def test_results_that_are_held_are_not_written_again() -> None:
    augment, policy = Augment(policy=RandAugment()), TrivialAugment()
    images, ids = images_of(8, 32, 32), np.arange(8)
    held = [augment(images, augment.draw(0, step, ids, 32)) for step in range(12)]
    views = [policy(images.permute(0, 3, 1, 2), policy.draw(0, step, ids))[1:, 0].flatten() for step in range(12)]
    for step in range(12):
        assert torch.equal(held[step], augment.plainly(images, augment.draw(0, step, ids, 32)))
        table = policy.table(policy.draw(0, step, ids), 32, 32)
        assert torch.equal(views[step], plainly(images, table).permute(0, 3, 1, 2)[1:, 0].flatten())


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_policy_can_be_copied_and_sent_to_another_process(policy: Policy) -> None:
    images = images_of(4, 24, 24).permute(0, 3, 1, 2)
    draws = policy.draw(0, 0, np.arange(4))
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert torch.equal(copied(images, draws), policy(images, draws))


def test_draws_of_other_images_are_refused() -> None:
    augment = Augment(policy=RandAugment(), erase=Erase(probability=1.0), mix=Mix())
    images, draws = images_of(16, 32, 32), augment.draw(0, 0, np.arange(16), 32)
    with pytest.raises(InputError, match="8 images and draws for 16"):
        augment(images[:8], draws)
    with pytest.raises(InputError, match="24x24 images and boxes down to row"):
        augment(images[:, :24, :24], draws)
    with pytest.raises(InputError, match="another Augment"):
        Augment(mix=Mix())(images, draws)


def test_a_policy_tells_its_settings() -> None:
    assert repr(RandAugment(num_ops=3, magnitude=1)) == (
        "RandAugment(num_ops=3, fill=(0, 0, 0), num_bins=31, magnitude=1)"
    )
