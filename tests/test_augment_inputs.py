"""What augmentation is given: numbers that are drawn, draws and settings that are refused, images of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import loaders
from convert.photographs import make_demo_sets
from loaders import draws as sample_draws
from loaders.augment import (
    Augment,
    AugmentDraws,
    ColorJitter,
    Erase,
    Mix,
    Policy,
    RandAugment,
    ThreeAugment,
    TimmRandAugment,
    TrivialAugment,
)
from loaders.draws import CUTMIX, MIXUP, EraseDraws, MixDraws, OpDraws
from loaders.errors import InputError
from loaders.native.library import why_missing
from loaders.order import Order
from loaders.philox import Purpose, bits, uniforms
from twistnet import recipes
from twistnet.augment_sheets import most_colourful
from twistnet.building import open_split
from twistnet.commands import augment as command
from twistnet.distributed import World
from twistnet.job import Job


@pytest.mark.parametrize("compiled", [True, False])
def test_words_from_a_place_on_are_those_of_all_words(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("loaders.philox.why_missing", lambda: "not built")
    elif why_missing():
        pytest.skip("needs the compiled library")
    ids = np.random.default_rng(0).integers(0, 2**32, 500)
    whole = bits(2**63 + 7, 3, ids, Purpose.MIX, 68)
    for start, count in ((0, 8), (36, 4), (4, 5), (64, 4)):
        part = bits(2**63 + 7, 3, ids, Purpose.MIX, count, start=start)
        np.testing.assert_array_equal(part, whole[:, start : start + count])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_mixings_weights_are_those_of_all_tries(alpha: float, probability: float) -> None:
    """Tries after the first are drawn only where they count, which must not be seen."""
    ids = np.random.default_rng(1).permutation(100_000)[:16_000]
    of_all, first = np.zeros(len(ids), dtype=np.int64), np.r_[0:4, 32:36]
    tries = uniforms(5, 2, ids, Purpose.MIX, 68)[:, 4:]
    weight, settled = sample_draws.symmetric_beta(tries, (alpha,), of_all)
    at_first, settled_at_first = sample_draws.symmetric_beta(tries[:, first], (alpha,), of_all)
    assert settled.all()
    assert 0.005 < (weight != at_first).mean() < 0.1, "some need another try"
    np.testing.assert_array_equal(weight[settled_at_first], at_first[settled_at_first])

    mixup = Mix(mixup_alpha=alpha, cutmix_alpha=0.0, probability=probability).draw(5, 2, ids, 224)
    np.testing.assert_array_equal(mixup.weight, np.where(mixup.kind == MIXUP, weight, 1.0).astype(np.float32))
    cutmix = Mix(mixup_alpha=0.0, cutmix_alpha=alpha, probability=probability).draw(5, 2, ids, 10**6)
    uncut = (cutmix.boxes[:, :2] > 0).all(axis=1) & (cutmix.boxes[:, 2:] < 10**6).all(axis=1)
    assert uncut.mean() > 0.05
    np.testing.assert_allclose(cutmix.weight[uncut], weight[uncut], atol=1e-5)
    both = Mix(mixup_alpha=alpha, cutmix_alpha=alpha, probability=probability).draw(5, 2, ids, 10**6)
    for kind, alone in ((MIXUP, mixup), (CUTMIX, cutmix)):
        where = both.kind == kind
        assert where.mean() > 0.2
        np.testing.assert_array_equal(both.weight[where], alone.weight[where])
        np.testing.assert_array_equal(both.boxes[where], alone.boxes[where])


def noise(count: int, size: int) -> torch.Tensor:
    """(count, size, size, 3) uint8."""
    return torch.from_numpy(np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def refused(call: Callable[[], object], *named: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    for word in named:
        assert word in message


WHOLE = Augment(policy=RandAugment(), erase=Erase(probability=1.0), mix=Mix())
IMAGES, DRAWS = noise(16, 32), WHOLE.draw(0, 0, np.arange(16), 32)
OPS, MIX, ERASE = DRAWS.ops, DRAWS.mix, DRAWS.erase
assert OPS is not None
assert MIX is not None
assert ERASE is not None


def replaced(array: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
    """The array with its last number another one."""
    array = array.copy()
    array.reshape(-1)[-1] = value
    return array


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (OPS._replace(ops=replaced(OPS.ops, -3)), "-3"),
        (OPS._replace(ops=replaced(OPS.ops, 14)), "0 to 13"),
        (OPS._replace(ops=OPS.ops.astype(np.float64)), "float64"),
        (OPS._replace(ops=OPS.ops[:, 0]), "(16,)"),
        (OpDraws(*(each[:, :0] for each in OPS)), "(16, 0)"),
        (OPS._replace(levels=replaced(OPS.levels, -3)), "-3"),
        (OPS._replace(levels=replaced(OPS.levels, 31)), "0 to 30"),
        (OPS._replace(levels=replaced(OPS.levels, 9.5)), "9.5"),
        (OPS._replace(levels=replaced(OPS.levels, np.nan)), "nan"),
        (OPS._replace(levels=OPS.levels[:1]), "(1, 2)"),
        (OPS._replace(levels=OPS.levels.tolist()), "list"),
        (OPS._replace(signs=OPS.signs[:, :1]), "(16, 1)"),
        (OPS._replace(signs=replaced(OPS.signs, 2)), "hold 2"),
        (OpDraws(*(each[1:] for each in OPS)), "draws for 15"),
        (MIX._replace(partner=replaced(MIX.partner, 16)), "16 images"),
        (MIX._replace(partner=replaced(MIX.partner, -1)), "-1"),
        (MIX._replace(partner=MIX.partner + 10**9), "1000000015"),
        (MIX._replace(partner=MIX.partner[:8]), "(8,)"),
        (MIX._replace(partner=MIX.partner.astype(np.float32)), "float32"),
        (MIX._replace(kind=replaced(MIX.kind, 3)), "0 to 2"),
        (MIX._replace(kind=MIX.kind.astype(np.float64)), "float64"),
        (MIX._replace(weight=replaced(MIX.weight, np.nan)), "nan"),
        (MIX._replace(weight=MIX.weight[:, None]), "(16, 1)"),
        (MIX._replace(boxes=replaced(MIX.boxes, 33)), "column 33"),
        (MIX._replace(boxes=MIX.boxes[:, ::-1].copy()), "end before they begin"),
        (MIX._replace(boxes=MIX.boxes[:2]), "(2, 4)"),
        (MixDraws(*(each[8:] for each in MIX)), "draws for 8"),
        (ERASE._replace(boxes=replaced(ERASE.boxes, 33)), "column 33"),
        (ERASE._replace(boxes=ERASE.boxes + np.array([2**32, 0, 0, 0])), "end before they begin"),
        (ERASE._replace(colours=ERASE.colours[:8]), "(8, 3)"),
        (EraseDraws(*(each[8:] for each in ERASE)), "draws for 8"),
    ],
)
def test_draws_that_are_not_of_the_batch_are_refused(wrong: OpDraws | MixDraws | EraseDraws, named: str) -> None:
    part = {OpDraws: "ops", MixDraws: "mix", EraseDraws: "erase"}[type(wrong)]
    refused(lambda: WHOLE(IMAGES, DRAWS._replace(**{part: wrong})), named)
    alone: dict[str, Callable[[], object]] = {
        "ops": lambda: RandAugment()(IMAGES.permute(0, 3, 1, 2), wrong),
        "mix": lambda: Mix()(IMAGES.permute(0, 3, 1, 2).float(), wrong),
        "erase": lambda: Erase()(IMAGES.permute(0, 3, 1, 2).float(), wrong),
    }
    refused(alone[part], named)
    WHOLE(IMAGES, DRAWS)  # what is right goes on


def test_a_part_of_a_batch_needs_draws_of_its_own() -> None:
    augment = Augment(mix=Mix())
    rest = MixDraws(*(each[8:] for each in MIX))
    refused(lambda: augment(IMAGES[8:], AugmentDraws(mix=rest)), "8 images", "draw with the ids of these images")
    first = MixDraws(*(each[:8] for each in MIX))
    whole = augment(IMAGES, AugmentDraws(mix=MIX))
    assert torch.equal(augment(IMAGES[:8], AugmentDraws(mix=first)), whole[:8])


def test_mixing_drawn_for_another_size_is_refused() -> None:
    mix = Mix(mixup_alpha=0.0)
    for size in (24, 31):
        drawn = mix.draw(0, 0, np.arange(16), size)
        refused(lambda drawn=drawn: mix(IMAGES.permute(0, 3, 1, 2).float(), drawn), "cutmix weight", "32x32")
        refused(lambda drawn=drawn: Augment(mix=mix)(IMAGES, AugmentDraws(mix=drawn)), "cutmix weight", "32x32")
    only_mixup = Mix(cutmix_alpha=0.0)
    assert only_mixup(IMAGES.permute(0, 3, 1, 2).float(), only_mixup.draw(0, 0, np.arange(16), 24)).shape[0] == 16


def test_levels_of_no_bins_are_finite() -> None:
    policy = TimmRandAugment(magnitude_std=1.0)
    drawn = policy.draw(0, 0, np.arange(16))
    for value in (np.nan, np.inf):
        wrong = drawn._replace(levels=replaced(drawn.levels, value))
        refused(lambda wrong=wrong: policy(IMAGES.permute(0, 3, 1, 2), wrong), str(value))


@pytest.mark.parametrize("policy", [RandAugment(), TimmRandAugment(magnitude_std=1.0), ThreeAugment()])
def test_the_layout_of_draws_does_not_count(policy: Policy) -> None:
    drawn = policy.draw(0, 0, np.arange(16))
    images = IMAGES.permute(0, 3, 1, 2)
    right = policy(images, drawn)
    wide = OpDraws(*(np.repeat(np.repeat(each, 2, axis=0), 2, axis=1)[::2, ::2] for each in drawn))
    for other in (OpDraws(*map(np.asfortranarray, drawn)), wide):
        assert not other.ops.flags.c_contiguous
        assert torch.equal(policy(images, other), right)


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (RandAugment, {"magnitude": 9.5}, "9.5"),
        (RandAugment, {"magnitude": 9.0}, "9.0"),
        (RandAugment, {"num_ops": 2.5}, "2.5"),
        (RandAugment, {"num_ops": True}, "True"),
        (RandAugment, {"num_bins": 31.5}, "31.5"),
        (RandAugment, {"fill": 0}, "0"),
        (RandAugment, {"fill": (0.5, 0, 0)}, "0.5"),
        (RandAugment, {"fill": "red"}, "red"),
        (RandAugment, {"fill": (0, 0)}, "(0, 0)"),
        (TrivialAugment, {"num_bins": 31.5}, "31.5"),
        (TrivialAugment, {"fill": None}, "None"),
        (TimmRandAugment, {"num_ops": 2.5}, "2.5"),
        (TimmRandAugment, {"fill": (0, 0, -1)}, "-1"),
        (Erase, {"ratio": (0.3, np.inf)}, "inf"),
        (Erase, {"ratio": 0.3}, "0.3"),
        (Erase, {"scale": (0.3,)}, "0.3"),
        (Erase, {"scale": ("0.1", "0.2")}, "0.1"),
        (Augment, {"mean": 0.5}, "0.5"),
        (Augment, {"mean": (0.5, 0.5, "red")}, "red"),
        (Augment, {"std": [0.2, 0.2, np.inf]}, "inf"),
    ],
)
def test_impossible_settings_are_refused(make: type, options: dict[str, Any], named: str) -> None:
    refused(lambda: make(**options), named)


def test_settings_may_come_as_lists_and_from_numpy() -> None:
    mean, std = [0.1, 0.2, 0.3], np.array([0.3, 0.2, 0.1])
    expected = Augment(mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))(IMAGES, AugmentDraws())
    assert torch.equal(Augment(mean=mean, std=std)(IMAGES, AugmentDraws()), expected)
    policy = RandAugment(num_ops=np.int64(2), magnitude=np.int64(9), fill=[9, 200, 30])
    right = RandAugment(fill=(9, 200, 30))
    drawn = right.draw(0, 0, np.arange(16))
    assert torch.equal(policy(IMAGES.permute(0, 3, 1, 2), drawn), right(IMAGES.permute(0, 3, 1, 2), drawn))


def test_a_policy_must_say_what_it_draws() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Policy(1, (0.0, 1.0))


def test_erasing_takes_normalised_images_and_draws_of_them() -> None:
    erase = Erase(probability=1.0, mode="rand")
    drawn = erase.draw(0, 0, np.arange(16), 32)
    refused(lambda: erase(IMAGES.permute(0, 3, 1, 2), drawn), "uint8", "(16, 3, 32, 32)")
    refused(lambda: erase(IMAGES.float(), drawn), "(16, 32, 32, 3)")
    refused(lambda: erase(torch.rand(8, 3, 32, 32), drawn), "8 images and draws for 16")
    assert erase(torch.rand(16, 3, 32, 32), drawn).shape == (16, 3, 32, 32)


@pytest.mark.parametrize(
    "policy", [RandAugment(), TrivialAugment(), TimmRandAugment(magnitude_std=1.0), ColorJitter(contrast=0.5)]
)
def test_a_batch_may_be_empty(policy: Policy) -> None:
    augment = Augment(policy=policy, erase=Erase(), mix=Mix(mode="batch"))
    drawn, nothing = augment.draw(0, 0, np.arange(0), 32), torch.empty(0, 32, 32, 3, dtype=torch.uint8)
    for run in (augment, augment.plainly):
        assert run(nothing, drawn).shape == (0, 3, 32, 32)
    assert policy(nothing.permute(0, 3, 1, 2)).shape == (0, 3, 32, 32)


def test_images_that_the_kernels_cannot_count_are_refused() -> None:
    fused = pytest.importorskip("loaders.augment.fused")
    assert fused.MAX_PIXELS * 255 < 2**31, "the sum of white's luma"
    assert -(-fused.MAX_PIXELS // fused.BLOCK) <= 65_535, "programs of a card along its second axis"
    white = torch.empty(1, 1, fused.MAX_PIXELS + 1, 3, dtype=torch.uint8)
    refused(lambda: Augment().by_kernels(white, AugmentDraws()), f"1x{fused.MAX_PIXELS + 1}", "on the CPU")
    policy = RandAugment()
    table = fused.DeviceTable.of(policy.table(policy.draw(0, 0, np.arange(1)), *white.shape[1:3]), white.device)
    refused(lambda: fused.operated(white, table), f"1x{fused.MAX_PIXELS + 1}")


@pytest.mark.parametrize("name", ["count", "tabulate", "operate", "finish"])
def test_the_kernels_take_a_side_of_one_pixel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launch compiles them, for which no card is needed: a size must neither be a constant nor compile anew."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import MockTensor

    from loaders.augment import fused, kernels

    driver = SimpleNamespace(
        get_current_device=lambda: "none",
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    constants = {"block": fused.BLOCK, "interpolated": False, "blurs": False}
    more: dict[str, dict[str, Any]] = {
        "count": {"slot": 0, **constants},
        "tabulate": {"slot": 0},
        "operate": constants,
        "finish": {"has_ops": True, "has_erase": True, "has_mix": True, **constants},
    }
    types = dict.fromkeys(("kinds", "counts", "erased", "mixing"), torch.int32)
    types |= dict.fromkeys(("parameters", "colours", "weights", "mean", "std"), torch.float32)
    kernel = getattr(kernels, name)
    compiled = set()
    for height, width in ((1, 1), (1, 64), (48, 1), (37, 41)):
        given = {"height": height, "width": width, **more[name]}
        arguments = [given.get(arg, MockTensor(types.get(arg, torch.uint8))) for arg in kernel.arg_names]
        compiled.add(kernel.warmup(*arguments, grid=(1, 1), enable_fp_fusion=False))
    assert len(compiled) == 1


@pytest.mark.parametrize(("batch", "repeats"), [(64, 3), (4, 3), (5, 4), (12, 3), (7, 7)])
def test_a_batch_lacks_fewer_views_than_it_has_repeats(batch: int, repeats: int) -> None:
    ids, _ = Order(num_samples=1000, global_batch=batch, repeats=repeats).batch(0, 0)
    lacking = repeats - np.unique(ids, return_counts=True)[1]
    assert lacking.min() >= 0
    assert lacking.sum() == -batch % repeats < repeats


ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_sets(tmp_path_factory.mktemp("data"), train_per_class=4, progress=False).photographs


@pytest.mark.parametrize("recipe", ["guide", "a1", "a2", "demo_dtd"])
def test_the_batch_that_is_shown_is_the_one_that_is_trained_on(
    recipe: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, Any] = {}
    monkeypatch.setattr(command, "batch_sheet", lambda batch, *_: shown.update(batch=batch))
    monkeypatch.setattr(command, "operations_sheet", lambda _, image, __: shown.update(image=image))
    command.show(data_dir=photographs, recipe=recipe, size=48, out=tmp_path, seed=3)
    found = shown["batch"]
    assert len(found.ids) >= 16
    named = recipes.named(recipe).with_changes(size=48, seed=3, batch_size=len(found.ids), accumulate=1, amp=False)
    job = Job(data_dir=photographs, run_dir=tmp_path, weights_name="none", workers=1)
    with open_split(job, "train", named, ALONE, train=True) as loader:
        expected = next(loader.epoch(0))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert set(np.unique(found.ids.numpy(), return_counts=True)[1]) == {named.repeats}, "each image in all its views"
    if named.train_augment().policy is not None:
        with loaders.open_loader(photographs, "train", 16, train=True, size=48, seed=3, crops=named.crops()) as loader:
            assert torch.equal(shown["image"], most_colourful(next(loader.epoch(0)).images))
