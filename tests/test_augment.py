"""The augmentation of a batch against torchvision, numpy and timm; the distribution of its draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from scipy import stats
from test_augment_ops import REFERENCE
from timm.data.mixup import rand_bbox
from torch import Tensor
from torchvision.transforms import v2

from loaders import draws as sample_draws
from loaders.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, AugmentDraws, Mix, RandAugment
from loaders.augment.spaces import torchvision_space
from loaders.draws import CUTMIX, MIXUP, NO_MIX, MixDraws, OpDraws
from loaders.errors import InputError
from loaders.philox import Purpose, uniforms

SPACE = torchvision_space(31)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def photographs(count: int, size: int) -> Tensor:
    """Crops of photographs: (count, size, size, 3) uint8."""
    rng = np.random.default_rng(0)
    sources = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    crops = []
    for index in range(count):
        image = sources[index % 3]
        top, left = (int(rng.integers(0, side - size)) for side in image.shape[:2])
        crops.append(image[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(crops))


def any_ops(count: int, num_ops: int = 2) -> OpDraws:
    """Draws of every operation, bin and sign, also those that one magnitude would not give."""
    rng = np.random.default_rng(1)
    shape = (count, num_ops)
    levels = rng.integers(0, 31, shape).astype(np.float64)
    return OpDraws(rng.integers(0, len(SPACE), shape), levels, rng.choice([-1, 1], shape))


def operated(images: Tensor, draws: OpDraws) -> Tensor:
    """RandAugment's module, which takes and gives (B, 3, H, W), on (B, H, W, 3)."""
    return RandAugment(num_ops=draws.ops.shape[1])(images.permute(0, 3, 1, 2), draws).permute(0, 2, 3, 1)


def torchvision_sequence(image: Tensor, draws: OpDraws, row: int) -> Tensor:
    """The operations of one sample on its (H, W, 3) image, by torchvision."""
    image = image.permute(2, 0, 1).contiguous()
    for op, level, sign in zip(draws.ops[row], draws.levels[row], draws.signs[row], strict=True):
        name = list(v2.RandAugment._AUGMENTATION_SPACE)[op]
        table, signed = v2.RandAugment._AUGMENTATION_SPACE[name]
        magnitudes = table(31, *image.shape[1:])
        magnitude = 0.0 if magnitudes is None else float(magnitudes[int(level)])
        image = REFERENCE[name](image, magnitude * int(sign) if signed else magnitude)
    return image.permute(1, 2, 0)


@pytest.mark.parametrize("size", [96, 61])
def test_randaugment_is_torchvisions_sequence(size: int) -> None:
    images = photographs(48, size)
    before = images.clone()
    for draws in (any_ops(48), any_ops(48, num_ops=3), RandAugment().draw(5, 2, np.arange(48))):
        ours = operated(images, draws)
        theirs = torch.stack([torchvision_sequence(image, draws, row) for row, image in enumerate(images)])
        # Not equality, for the reason given in test_augment_ops: a level in a blend is enough to break it.
        assert (ours != theirs).float().mean() < 1e-4
    assert torch.equal(images, before)


def test_a_batch_is_augmented_as_its_samples_alone() -> None:
    images, draws = photographs(32, 64), any_ops(32)
    whole = operated(images, draws)
    for row in range(32):
        alone = operated(images[row : row + 1], OpDraws(*(field[row : row + 1] for field in draws)))
        assert torch.equal(alone[0], whole[row])


def test_pixels_do_not_depend_on_the_number_of_threads() -> None:
    augment = Augment(policy=RandAugment(), mix=Mix(mixup_alpha=0.8))
    images, draws = photographs(64, 61), augment.draw(0, 0, np.arange(64), 61)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(augment(images, draws))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_images_need_not_be_contiguous() -> None:
    images, draws = photographs(8, 64), any_ops(8)
    strided = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    augment = Augment(policy=RandAugment())
    assert torch.equal(augment(strided, AugmentDraws(draws)), augment(images, AugmentDraws(draws)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [96, 61])
def test_normalisation_is_torchvisions(dtype: torch.dtype, size: int) -> None:
    images = photographs(4, size)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    expected = reference(images.permute(0, 3, 1, 2))
    ours = Augment(dtype=dtype)(images, AugmentDraws())
    assert ours.dtype == dtype
    # Half a unit in the last place of the output's type, and float32's own rounding.
    torch.testing.assert_close(ours.float(), expected, rtol=torch.finfo(dtype).eps / 2, atol=2e-6)


def test_mean_and_std_of_other_data() -> None:
    images = photographs(4, 32)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = v2.Normalize(mean, std)(images.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(Augment(mean=mean, std=std)(images, AugmentDraws()), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mix", [None, Mix()])
def test_output_is_channels_last_in_the_precision_asked_for(dtype: torch.dtype, mix: Mix | None) -> None:
    images = photographs(16, 32)
    augment = Augment(policy=RandAugment(), mix=mix, dtype=dtype)
    draws = augment.draw(0, 0, np.arange(16), 32)
    result = augment(images, draws)
    assert result.shape == (16, 3, 32, 32)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    # Rounded once, at the end.
    exact = Augment(policy=RandAugment(), mix=mix)(images, draws)
    assert torch.equal(result, exact.to(dtype))


def mixed_by_hand(images: np.ndarray[Any, Any], draws: MixDraws) -> np.ndarray[Any, Any]:
    result = np.empty_like(images)
    for row, image in enumerate(images):
        other, weight = images[draws.partner[row]], float(draws.weight[row])
        result[row] = image
        if draws.kind[row] == MIXUP:
            result[row] = weight * image + (1.0 - weight) * other
        elif draws.kind[row] == CUTMIX:
            for y in range(draws.boxes[row, 0], draws.boxes[row, 2]):
                for x in range(draws.boxes[row, 1], draws.boxes[row, 3]):
                    result[row, :, y, x] = other[:, y, x]
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_mixing_is_what_its_draws_say(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    mix = Mix(mixup_alpha=0.8, probability=0.8)
    draws = mix.draw(3, 1, np.arange(64), 40)
    assert set(draws.kind) == {NO_MIX, MIXUP, CUTMIX}
    images = Augment()(photographs(64, 40), AugmentDraws()).to(dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    ours = mix(images, draws)
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    expected = torch.from_numpy(mixed_by_hand(images.double().numpy(), draws))
    # In half precision only the result may be rounded: products and sums rounded too would err twice as much.
    torch.testing.assert_close(ours.double(), expected, rtol=torch.finfo(dtype).eps * 0.51, atol=5e-7)


def test_nothing_waits_for_the_values_of_pixels() -> None:
    # Meta tensors have none, so whatever would bring one to the host raises here.
    augment = Augment(policy=RandAugment(), mix=Mix(), dtype=torch.bfloat16)
    images = torch.empty(64, 32, 32, 3, dtype=torch.uint8, device="meta")
    for step in range(4):
        result = augment(images, augment.draw(0, step, np.arange(64), 32))
        assert result.is_meta


def test_operations_are_uniform_and_signs_even() -> None:
    draws = RandAugment(num_ops=3, magnitude=4).draw(0, 0, np.arange(20_000))
    assert (draws.levels == 4).all()
    for place in range(3):
        counts = np.bincount(draws.ops[:, place], minlength=len(SPACE))
        assert stats.chisquare(counts).pvalue > 1e-3
        assert stats.binomtest(int((draws.signs[:, place] == 1).sum()), 20_000).pvalue > 1e-3
    assert set(np.unique(draws.signs)) == {-1, 1}
    # Neither the places nor the operation and its sign go together.
    pairs = np.bincount(draws.ops[:, 0] * len(SPACE) + draws.ops[:, 1], minlength=len(SPACE) ** 2)
    assert stats.chisquare(pairs).pvalue > 1e-3
    table = [np.bincount(draws.ops[draws.signs[:, 0] == sign, 0], minlength=len(SPACE)) for sign in (-1, 1)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 2.0])
def test_beta_numbers_are_distributed_as_scipys(alpha: float) -> None:
    draws = uniforms(7, 0, np.arange(20_000), Purpose.MIX, 64)
    values, _ = sample_draws.symmetric_beta(draws, (alpha,), np.zeros(20_000, dtype=np.int64))
    assert stats.kstest(values, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_weights_follow_their_distribution() -> None:
    draws = Mix(mixup_alpha=0.8, cutmix_alpha=0.0).draw(0, 0, np.arange(16_000), 224)
    assert (draws.kind == MIXUP).all()
    assert (draws.boxes == 0).all()
    assert stats.kstest(draws.weight, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3


@pytest.mark.parametrize("size", [96, 224])
def test_cutmix_is_distributed_as_timms(size: int) -> None:
    n = 8000
    draws = Mix(mixup_alpha=0.0).draw(0, 0, np.arange(n), size)
    assert (draws.kind == CUTMIX).all()
    np.random.seed(0)  # timm draws from numpy's global generator
    theirs = np.array([rand_bbox((size, size), np.random.beta(1.0, 1.0)) for _ in range(n)])
    for ours_edge, theirs_edge in zip(draws.boxes.T, theirs[:, [0, 2, 1, 3]].T, strict=True):
        assert stats.ks_2samp(ours_edge, theirs_edge).pvalue > 1e-3
    kept = 1 - (theirs[:, 1] - theirs[:, 0]) * (theirs[:, 3] - theirs[:, 2]) / size**2
    assert stats.ks_2samp(draws.weight, kept).pvalue > 1e-3


def test_cutmix_weight_is_the_share_of_pixels_kept() -> None:
    mix = Mix(mixup_alpha=0.0)
    draws = mix.draw(4, 0, np.arange(64), 33)
    # Each sample shows its own number, so that the pixels tell whose they are.
    images = torch.arange(64.0).view(-1, 1, 1, 1).expand(-1, 3, 33, 33)
    result = mix(images, draws)
    kept = (result == images).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(kept, torch.from_numpy(draws.weight))


def test_shares_of_mixup_and_cutmix() -> None:
    n = 16_000
    kinds = Mix(probability=0.75, switch_probability=0.2).draw(0, 0, np.arange(n), 64).kind
    expected = np.array([0.25, 0.75 * 0.8, 0.75 * 0.2]) * n
    assert stats.chisquare(np.bincount(kinds, minlength=3), expected).pvalue > 1e-3
    unmixed = Mix(probability=0.0).draw(0, 0, np.arange(64), 64)
    assert (unmixed.kind == NO_MIX).all()
    assert (unmixed.weight == 1).all()


@pytest.mark.parametrize("group", [2, 8, 64])
def test_partners_are_others_of_the_group_and_each_serves_once(group: int) -> None:
    for ids in (np.random.default_rng(0).permutation(1000)[:512], np.zeros(512, np.int64)):
        partner = Mix(group=group).draw(0, 0, ids, 32).partner
        assert (partner != np.arange(512)).all()
        np.testing.assert_array_equal(np.sort(partner), np.arange(512))
        np.testing.assert_array_equal(partner // group, np.arange(512) // group)


def test_partners_vary_over_their_group() -> None:
    offsets = [Mix().draw(0, epoch, np.arange(64), 32).partner % 8 for epoch in range(200)]
    table = np.zeros((8, 8))
    for partner in offsets:
        np.add.at(table, (np.arange(64) % 8, partner), 1)
    assert stats.chisquare(table[~np.eye(8, dtype=bool)]).pvalue > 1e-3


def test_draws_of_a_sample_do_not_change_with_the_batch() -> None:
    augment = Augment(policy=RandAugment(), mix=Mix())
    ids = np.random.default_rng(0).permutation(10_000)[:64]
    whole = augment.draw(9, 3, ids, 64)
    assert whole.ops is not None
    assert whole.mix is not None
    for start, stop in ((0, 8), (24, 48), (56, 64)):
        part = augment.draw(9, 3, ids[start:stop], 64)
        assert part.ops is not None
        assert part.mix is not None
        for alone, among in zip(part.ops, whole.ops, strict=True):
            np.testing.assert_array_equal(alone, among[start:stop])
        np.testing.assert_array_equal(part.mix.partner + start, whole.mix.partner[start:stop])
        for name in ("kind", "weight", "boxes"):
            np.testing.assert_array_equal(getattr(part.mix, name), getattr(whole.mix, name)[start:stop])
    # Everything but the partner is a sample's own, whoever else is in its group.
    reversed_batch = augment.draw(9, 3, ids[::-1].copy(), 64)
    assert reversed_batch.mix is not None
    for name in ("kind", "weight", "boxes"):
        np.testing.assert_array_equal(getattr(reversed_batch.mix, name)[::-1], getattr(whole.mix, name))


def test_a_split_batch_has_the_pixels_of_the_whole_one() -> None:
    augment = Augment(policy=RandAugment(), mix=Mix())
    images, ids = photographs(32, 48), np.arange(100, 132)
    whole = augment(images, augment.draw(1, 1, ids, 48))
    halves = [augment(images[half], augment.draw(1, 1, ids[half], 48)) for half in (slice(0, 16), slice(16, 32))]
    assert torch.equal(torch.cat(halves), whole)


def test_parts_that_are_left_out_draw_nothing() -> None:
    assert Augment().draw(0, 0, np.arange(3), 32) == AugmentDraws(None, None)
    Augment().check_batch_size(3)
    Augment(mix=Mix(group=4)).check_batch_size(12)


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (RandAugment, {"num_ops": 0}, "0"),
        (RandAugment, {"num_bins": 1}, "1"),
        (RandAugment, {"magnitude": 31}, "31"),
        (RandAugment, {"magnitude": -1}, "-1"),
        (Mix, {"mixup_alpha": -0.2}, "-0.2"),
        (Mix, {"cutmix_alpha": float("nan")}, "nan"),
        (Mix, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, "0"),
        (Mix, {"probability": 1.5}, "1.5"),
        (Mix, {"switch_probability": -1}, "-1"),
        (Mix, {"group": 1}, "1"),
        (Augment, {"std": (0.2, 0.0, 0.2)}, "0.0"),
        (Augment, {"mean": (0.2, 0.2)}, "0.2"),
        (Augment, {"dtype": torch.uint8}, "uint8"),
    ],
)
def test_impossible_values_are_refused(make: type, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as refused:
        make(**options)
    message = str(refused.value)
    assert named in message
    assert message.endswith(".")
    assert "\n" not in message


def test_unsuitable_batches_are_refused() -> None:
    images, floats = photographs(8, 32), torch.rand(8, 3, 32, 32)
    with pytest.raises(InputError, match="multiple of 8"):
        Augment(mix=Mix()).draw(0, 0, np.arange(12), 32)
    with pytest.raises(InputError, match="multiple of 8"):
        Augment(mix=Mix()).check_batch_size(12)
    with pytest.raises(InputError, match="float32"):
        RandAugment()(floats)
    with pytest.raises(InputError, match=r"\(8, 3, 32, 32\)"):
        Augment()(images.permute(0, 3, 1, 2), AugmentDraws())
    with pytest.raises(InputError, match="8 images and draws for 7"):
        RandAugment()(images.permute(0, 3, 1, 2), any_ops(7))
    with pytest.raises(InputError, match="8 images and draws for 16"):
        Mix()(floats, Mix().draw(0, 0, np.arange(16), 32))
    with pytest.raises(InputError, match="uint8"):
        Mix()(images.permute(0, 3, 1, 2), Mix().draw(0, 0, np.arange(8), 32))


@pytest.mark.gpu
@pytest.mark.parametrize("op", range(len(SPACE)), ids=[operation.name for operation in SPACE])
def test_operations_agree_on_cuda(op: int) -> None:
    images = photographs(62, 61)
    levels = np.repeat(np.arange(31.0), 2)[:, None]
    draws = OpDraws(np.full((62, 1), op), levels, np.tile(np.array([-1, 1]), 31)[:, None])
    assert torch.equal(operated(images.cuda(), draws).cpu(), operated(images, draws))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalisation_and_mixing_agree_on_cuda_without_waiting_for_it(dtype: torch.dtype) -> None:
    images = photographs(64, 96)
    normalise = Augment(mix=Mix(), dtype=dtype)
    draws = normalise.draw(0, 0, np.arange(64), 96)
    on_cuda = images.cuda()
    result = normalise(on_cuda, draws)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result.cpu(), normalise(images, draws))
    augment = Augment(policy=RandAugment(), mix=Mix(), dtype=dtype)
    draws = augment.draw(0, 0, np.arange(64), 96)
    augment(on_cuda, draws)  # the first call may wait, to keep constants on the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(on_cuda, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
