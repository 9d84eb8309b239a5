"""The kernels of augmentation against its plain torch, in Triton's interpreter: bit for bit in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from triton_interpreter import run_interpreted

from loaders.augment import Augment, AugmentDraws, Erase, Mix, Policy, RandAugment, ThreeAugment, TimmRandAugment
from loaders.augment.finishing import finish_of
from loaders.augment.running import plainly
from loaders.augment.spaces import torchvision_space
from loaders.draws import OpDraws

triton = pytest.importorskip("triton")

from loaders.augment import fused, kernels  # noqa: E402  # which need Triton

SPACE = torchvision_space(31)
SIZES = ((16, 24), (24, 16))


def images_of(count: int, height: int, width: int) -> torch.Tensor:
    """Photographs, a ramp, a constant and random bytes, one after another."""
    rng = np.random.default_rng(count)
    ramp = np.tile((np.arange(width) * 255 // (width - 1))[None, :, None], (height, 1, 3))
    photographs = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    found = []
    for place in range(count):
        photograph = photographs[place % 3]
        top, left = rng.integers(0, 250, 2)
        crop = photograph[top : top + 2 * height : 2, left : left + 2 * width : 2]
        others = (crop, crop, rng.integers(0, 256, (height, width, 3)), ramp, np.full((height, width, 3), 77))
        found.append(others[place % 5].astype(np.uint8))
    return torch.from_numpy(np.stack(found))


def every_op() -> OpDraws:
    """Each operation at its weakest, a middle and its strongest bin, either way, as the first or the second of two."""
    rows = [(op, bin_, sign) for op in range(len(SPACE)) for bin_ in (0, 9, 30) for sign in (1, -1)]
    ops, bins, signs = (np.array(column) for column in zip(*rows, strict=True))
    bins = bins.astype(np.float64)
    alone, bin_0, plus = np.zeros_like(ops), np.zeros_like(ops), np.ones_like(ops)
    pairs = ((ops, alone), (alone, ops)), ((bins, bin_0), (bin_0, bins)), ((signs, plus), (plus, signs))
    return OpDraws(*(np.concatenate([np.stack(pair, axis=1) for pair in each]) for each in pairs))


def every_statistic() -> OpDraws:
    """The operations that look at the whole image first, each as the first or the second of two."""
    names = [operation.name for operation in SPACE]
    rows = [(names.index(name), 0) for name in ("Contrast", "AutoContrast", "Equalize")]
    ops = np.array([*rows, *(row[::-1] for row in rows)])
    return OpDraws(ops, np.full(ops.shape, 20.0), np.ones_like(ops))


def check(name: str, augment: Augment, draws: AugmentDraws, images: torch.Tensor) -> None:
    right, found = augment.plainly(images, draws), augment.by_kernels(images, draws)
    assert found.dtype == right.dtype == augment.dtype, name
    assert found.is_contiguous(memory_format=torch.channels_last), name
    if augment.dtype == torch.bfloat16:  # the interpreter cuts off where a card rounds: up to one unit
        unit = torch.finfo(augment.dtype).eps
        assert ((found.float() - right.float()).abs() <= unit * right.float().abs().clamp(min=1e-3)).all(), name
    else:
        assert torch.equal(found, right), name
    print(name)


def main() -> None:
    ops, alone = every_op(), RandAugment()
    for height, width in SIZES:
        images = images_of(len(ops.ops), height, width)
        check(f"every operation, {height} x {width}", Augment(policy=alone), AugmentDraws(ops), images)
    # A program counts 8 blocks of 256 pixels: of three, the middle one alone has the least and the greatest values.
    images = images_of(6, 64, 72).clamp(20, 235)
    images[:, 40, :2] = torch.tensor([[0], [255]], dtype=torch.uint8)
    check("statistics of several programs", Augment(policy=alone), AugmentDraws(every_statistic()), images)
    images = images_of(16, 24, 24)
    draws = Augment(policy=alone, mix=Mix(group=4)).draw(1, 0, np.arange(16), 24)
    assert len(set(draws.mix.kind.tolist())) > 1, "both kinds of mixing"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check(f"both and {dtype}", Augment(policy=alone, mix=Mix(group=4), dtype=dtype), draws, images)
    check("mixing", Augment(mix=Mix(group=4)), draws._replace(ops=None), images)
    check("normalising", Augment(mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1)), AugmentDraws(), images)
    check(
        "one operation",
        Augment(policy=RandAugment(num_ops=1)),
        AugmentDraws(OpDraws(*(each[:, :1] for each in draws.ops))),
        images,
    )
    others = {
        "timm's": TimmRandAugment(magnitude_std=math.inf, probability=0.9),
        "three-augment": ThreeAugment(),
        "three operations": RandAugment(num_ops=3, magnitude=20, fill=(9, 200, 30)),
    }
    for name, policy in others.items():
        augment = Augment(policy=policy, erase=Erase(probability=0.6, mode="rand"), mix=Mix(group=4))
        draws, images = augment.draw(0, 0, np.arange(12), 16), images_of(12, 16, 16)
        draws.ops.ops[0] = 0  # which neither interpolates nor blurs: the first sample does not speak for the others
        check(name, augment, draws, images)
        table = policy.table(draws.ops, 16, 16)
        found = fused.operated(images, fused.DeviceTable.of(table, images.device))
        assert torch.equal(found, plainly(images, table)), name
    rng = np.random.default_rng(0)
    pairs = OpDraws(
        rng.integers(0, len(SPACE), (96, 2)), rng.integers(0, 31, (96, 2)).astype(float), rng.choice([-1, 1], (96, 2))
    )
    check("pairs of operations", Augment(policy=alone), AugmentDraws(pairs), images_of(96, 16, 16))
    whole = Augment(policy=alone).by_kernels(images_of(96, 16, 16), AugmentDraws(pairs))
    some = AugmentDraws(OpDraws(*(each[40:43] for each in pairs)))
    part = Augment(policy=alone).by_kernels(images_of(96, 16, 16)[40:43], some)
    assert torch.equal(part, whole[40:43]), "neither its place nor the batch's size"
    print("equal")


def test_the_kernels_are_the_plain_torch() -> None:
    assert run_interpreted(__file__).endswith("equal\n")


@pytest.mark.parametrize("policy", [TimmRandAugment(), ThreeAugment(), RandAugment()])
def test_what_is_launched_does_not_depend_on_the_draws(policy: Policy) -> None:
    """Or a graph that was captured with some draws would be wrong for others."""
    draws = policy.draw(0, 0, np.arange(64))
    names, found = {operation.name for operation in policy.space}, set()
    for ops in (draws.ops, np.zeros_like(draws.ops)):  # neither interpolates nor blurs, in any of these spaces
        table = policy.table(draws._replace(ops=ops), 16, 16)
        device_table = fused.DeviceTable.of(table, torch.device("cpu"))
        found.add((device_table.interpolated, device_table.blurs))
    assert found == {(isinstance(policy, TimmRandAugment), "GaussianBlur" in names)}


TYPES = {
    **dict.fromkeys(("images", "tables", "fill"), "*u8"),
    **dict.fromkeys(("kinds", "counts", "erased", "mixing"), "*i32"),
    **dict.fromkeys(("parameters", "colours", "weights", "mean", "std"), "*fp32"),
    **dict.fromkeys(("height", "width"), "i32"),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("finish", {"has_ops": True, "has_erase": True, "has_mix": True}),
        ("operate", {}),
        ("count", {"slot": 1}),
        ("tabulate", {"slot": 0}),
    ],
)
def test_the_kernels_compile_without_a_card(name: str, constants: dict[str, Any], capability: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels, name)
    more = {} if name == "tabulate" else {"block": fused.BLOCK, "interpolated": True, "blurs": True}
    constants = {**constants, **more}
    types = {**TYPES, "out": "*u8" if name == "operate" else "*bf16"}
    signature = {arg: "constexpr" if arg in constants else types[arg] for arg in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(arg),): value for arg, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False})
    assert "fma.rn.f32" not in compiled.asm["ptx"], "the plain torch's roundings"
    assert len(compiled.asm["cubin"]) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("size", [96, 160, 224, 384])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_card_gives_the_cpus_result(size: int, dtype: torch.dtype) -> None:
    augment = Augment(policy=RandAugment(), mix=Mix(), dtype=dtype)
    images, draws = images_of(32, size // 2, size // 2).repeat(1, 2, 2, 1), augment.draw(0, 0, np.arange(32), size)
    assert torch.equal(augment(images.cuda(), draws).cpu(), augment(images, draws))


@pytest.mark.gpu
def test_it_can_be_captured_in_a_graph() -> None:
    """With the tables of other draws in the same memory the same launches give the other result."""
    augment = Augment(policy=RandAugment(), mix=Mix())
    policy, images = augment.policy, images_of(16, 48, 48).repeat(1, 2, 2, 1).cuda()
    assert policy is not None
    mean, std = (torch.tensor(each, device="cuda") * 255 for each in (augment.mean, augment.std))
    inputs = []
    for epoch in range(2):
        draws = augment.draw(0, epoch, np.arange(16), 96)
        assert draws.ops is not None
        table = fused.DeviceTable.of(policy.table(draws.ops, 96, 96), images.device)
        inputs.append((table, fused.DeviceFinish.of(finish_of(16, None, draws.mix), images.device)))
    table, finish = inputs[0]
    shared_table = table._replace(kinds=table.kinds.clone(), parameters=table.parameters.clone())
    shared_finish = fused.DeviceFinish(*(each.clone() for each in finish))

    def run(table: fused.DeviceTable, finish: fused.DeviceFinish) -> torch.Tensor:
        return fused.augmented(images, table, finish, mean, std, torch.float32, has_erase=False, has_mix=True)

    right = [run(*each) for each in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(shared_table, shared_finish)
    for (table, finish), expected in zip(inputs, right, strict=True):
        shared_table.kinds.copy_(table.kinds)
        shared_table.parameters.copy_(table.parameters)
        for to, value in zip(shared_finish, finish, strict=True):
            to.copy_(value)
        graph.replay()
        assert torch.equal(out, expected)


if __name__ == "__main__":
    main()
