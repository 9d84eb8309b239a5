"""Draws against known answers and torchvision's own sampler; independence of batch, rank and neighbours."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from independence import correlation, is_independent
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from loaders import InputError, draws
from loaders.crops import CropPolicy
from loaders.native.library import why_missing
from loaders.philox import Purpose, bits, philox4x32, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers of Random123, the authors' own library
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: tuple[int, ...], key: int, expected: tuple[int, ...]) -> None:
    assert tuple(philox4x32(np.array(counter, dtype=np.uint64), key)) == expected


@pytest.mark.skipif(why_missing() is not None, reason="needs the compiled library")
def test_the_compiled_library_draws_what_numpy_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids, sizes = rng.integers(0, 2**32, 100_000), rng.integers(1, 2000, (100_000, 2))
    sizes[:1000, 0] = 1
    ranges = ((0.08, 1.0), (3 / 4, 4 / 3)), ((0.35, 1.0), (0.5, 2.0)), ((1.0, 1.0), (1.0, 1.0))

    def drawn() -> list[np.ndarray]:
        boxes = [draws.crop_boxes(2**63 + 7, 5, ids, sizes, scale, ratio) for scale, ratio in ranges]
        return [*boxes, *(bits(2**63 + 7, 2**32 - 1, ids[:999], Purpose.MIX, count) for count in (1, 4, 11))]

    compiled = drawn()
    for module in ("philox", "draws"):
        monkeypatch.setattr(f"loaders.{module}.why_missing", lambda: "not built")
    for one, other in zip(compiled, drawn(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_uniforms_are_uniform_and_purposes_independent() -> None:
    ids = np.arange(20_000)
    crop, flip = (uniforms(1, 0, ids, purpose, 1)[:, 0] for purpose in (Purpose.CROP, Purpose.FLIP))
    assert stats.kstest(crop, "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(crop, flip).statistic) < 0.03
    assert abs(stats.pearsonr(crop, uniforms(1, 1, ids, Purpose.CROP, 1)[:, 0]).statistic) < 0.03


def test_draws_of_a_sample_depend_on_nothing_but_the_sample() -> None:
    ids = np.random.default_rng(0).permutation(5000)[:256]
    crops, flips = draws.crop_uniforms(3, 4, ids), draws.flips(3, 4, ids, 0.5)
    ops = (*draws.operations(3, 4, ids, 2, 14), draws.strengths(3, 4, ids, 2))
    for part in (slice(0, 1), slice(100, 164), slice(255, 256)):
        np.testing.assert_array_equal(draws.crop_uniforms(3, 4, ids[part]), crops[part])
        np.testing.assert_array_equal(draws.flips(3, 4, ids[part], 0.5), flips[part])
        for whole, alone in zip(
            ops, (*draws.operations(3, 4, ids[part], 2, 14), draws.strengths(3, 4, ids[part], 2)), strict=True
        ):
            np.testing.assert_array_equal(alone, whole[part])


def test_mixing_depends_on_the_group_alone() -> None:
    ids = np.random.default_rng(0).permutation(5000)[:256]
    options = {
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "probability": 0.9,
        "switch_probability": 0.5,
        "group": 8,
    }
    whole = draws.mixing(3, 4, ids, 224, **options)
    for world_size in (2, 4, 8):
        share = 256 // world_size
        for rank in range(world_size):
            mine = slice(rank * share, (rank + 1) * share)
            part = draws.mixing(3, 4, ids[mine], 224, **options)
            np.testing.assert_array_equal(part.partner + rank * share, whole.partner[mine])
            for name in ("kind", "weight", "boxes"):
                np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[mine])


@pytest.mark.parametrize(("height", "width"), [(390, 470), (224, 224), (1000, 60), (33, 500), (7, 5)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.35, 1.0)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    n = 3000
    ids = np.arange(n)
    ours = draws.random_resized_crop(draws.crop_uniforms(11, 0, ids), np.full(n, height), np.full(n, width), scale)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(n)])
    for column, name in enumerate(("top", "left", "height", "width")):
        if len(np.unique(theirs[:, column])) == 1:
            np.testing.assert_array_equal(np.unique(ours[:, column]), np.unique(theirs[:, column]), name)
        else:
            assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3, name
    areas = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    ratios = [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3
    assert stats.ks_2samp(*ratios).pvalue > 1e-3


def test_crops_lie_inside_images_of_any_size() -> None:
    rng = np.random.default_rng(0)
    heights, widths = (np.exp(rng.uniform(0, math.log(6000), 4000)).astype(np.int64) for _ in range(2))
    boxes = CropPolicy().boxes(0, 0, np.arange(4000), np.stack((heights, widths), 1), train=True)
    central = CropPolicy().boxes(0, 0, np.arange(4000), np.stack((heights, widths), 1), train=False)
    for top, left, box_h, box_w in (boxes.T, central.T):
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (box_h >= 1).all()
        assert (box_w >= 1).all()
        assert (top + box_h <= heights).all()
        assert (left + box_w <= widths).all()


def test_central_crops_keep_what_torchvisions_resize_and_centre_crop_keep() -> None:
    for height, width in [(390, 470), (500, 333), (256, 256), (1201, 900)]:
        top, left, box_h, box_w = CropPolicy().boxes(
            0, 0, np.zeros(1, np.int64), np.array([[height, width]]), train=False
        )[0]
        scale = min(height, width) / 256  # Resize(256) and CenterCrop(224), in the image's own pixels
        assert box_h == box_w == pytest.approx(224 * scale, abs=1)
        assert top == pytest.approx((height - 224 * scale) / 2, abs=1)
        assert left == pytest.approx((width - 224 * scale) / 2, abs=1)


def test_flips_have_their_probability() -> None:
    assert draws.flips(0, 0, np.arange(20_000), 0.5).mean() == pytest.approx(0.5, abs=0.015)
    assert not draws.flips(0, 0, np.arange(1000), 0.0).any()
    assert draws.flips(0, 0, np.arange(1000), 1.0).all()


def columns(name: str, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """All that one call draws: (B, n)."""
    if name == "crops":
        sizes = np.full((len(ids), 2), (400, 500))
        return draws.crop_boxes(seed, epoch, ids, sizes, (0.08, 1.0), (3 / 4, 4 / 3))
    if name == "flips":
        return draws.flips(seed, epoch, ids, 0.5)[:, None]
    if name == "operations":
        return np.concatenate(draws.operations(seed, epoch, ids, 2, 14), axis=1)
    if name == "strengths":
        return draws.strengths(seed, epoch, ids, 2).reshape(len(ids), -1)
    if name == "erasing":
        options = {"probability": 0.9, "scale": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3), "coloured": True}
        return np.concatenate(draws.erasing(seed, epoch, ids, 96, **options), axis=1)
    if name == "partners":
        return (draws.partners(seed, epoch, ids, 8) % 8)[:, None]
    mixed = draws.mixing(
        seed, epoch, ids, 96, mixup_alpha=0.2, cutmix_alpha=1.0, probability=0.9, switch_probability=0.5, group=8
    )
    return np.column_stack((mixed.kind, mixed.weight, mixed.boxes))


CALLS = ("crops", "flips", "operations", "strengths", "erasing", "partners", "mixing")


@pytest.mark.parametrize("name", CALLS)
def test_each_epoch_seed_and_sample_is_drawn_anew(name: str) -> None:
    ids = np.arange(20_000)
    first = columns(name, 3, 5, ids)
    for seed, epoch in ((3, 6), (4, 5), (3, 5 + 2**31)):
        assert is_independent(correlation(first, columns(name, seed, epoch, ids)), len(ids)), f"{seed}, {epoch}"
    if name != "partners":  # they share out the places of their group
        assert is_independent(correlation(first[1:], first[:-1]), len(ids))


@pytest.mark.parametrize(("one", "other"), list(combinations(CALLS, 2)))
def test_what_is_drawn_for_one_purpose_does_not_know_the_others(one: str, other: str) -> None:
    ids = np.arange(20_000)
    assert is_independent(correlation(columns(one, 3, 5, ids), columns(other, 3, 5, ids)), len(ids))


def test_seed_and_epoch_do_not_add_up() -> None:
    ids = np.arange(64)
    assert not np.array_equal(bits(3, 1, ids, Purpose.CROP, 4), bits(4, 0, ids, Purpose.CROP, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (0.5, 0.1)}, r"scale \(0.5, 0.1\)"),
        ({"ratio": (0.0, 1.0)}, r"ratio \(0.0, 1.0\)"),
        ({"hflip": 1.5}, "probability 1.5"),
        ({"crop_pct": 0.0}, "crop_pct 0.0"),
        ({"interpolation": "nearest"}, "'nearest'"),
    ],
)
def test_impossible_crops_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CropPolicy(**values)
