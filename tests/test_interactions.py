"""The passes of a twist block against its plain formulation: in float64, in half precision, and by Triton's kernels."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from native_builds import built_with_sanitizers
from torch import Tensor
from triton_interpreter import run_interpreted

from twistnet.interactions import DEVICES, EPS, HEAD_CHANNELS, PAIRS, interactions, on_cpu, scale_shift
from twistnet.stci import MultiHeadSTCI

pytestmark = pytest.mark.skipif("cpu" not in DEVICES, reason=str(on_cpu.why_missing()))

# Samples, heads, height, width: a single pixel, fewer pixels than a block of the kernels, and no multiple of one.
SHAPES = [(1, 1, 1, 1), (2, 4, 3, 5), (3, 2, 7, 9)]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Channels as a rectifier leaves them, some pixels dead in all channels of a head, and kernels."""
    count, heads, height, width = shape
    generator = torch.Generator().manual_seed(heads)
    z = torch.randn(count, heads * HEAD_CHANNELS, height, width, generator=generator, dtype=torch.float64)
    z = z.relu() + (torch.rand(z.shape, generator=generator) < 0.05)
    z[:, :HEAD_CHANNELS, 1::3, ::2] = 0.0
    kernels = torch.randn(heads * HEAD_CHANNELS, 1, 3, 3, generator=generator, dtype=torch.float64)
    return z.to(dtype).requires_grad_(), kernels.to(dtype).requires_grad_()


def plainly(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Head by head and pair by pair, by torch's own functions."""
    found = []
    for own, kernel in zip(z.split(HEAD_CHANNELS, 1), kernels.split(HEAD_CHANNELS), strict=True):
        twisted = F.conv2d(own, kernel, padding=1, groups=HEAD_CHANNELS)
        first, second = F.normalize(own, eps=EPS), F.normalize(twisted, eps=EPS)
        found += [first, *(first[:, i : i + 1] * second[:, j : j + 1] for i, j in PAIRS)]
    products = torch.cat(found, dim=1)
    return products, products.mean((2, 3)), products.square().mean((2, 3))


def results(function: Any, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """What it returns, and the gradients of a sum of it with uneven weights."""
    out = function(*tensors)
    out = out if isinstance(out, tuple) else (out,)
    total = sum((each.double() * torch.linspace(-1, 2, each.numel()).view(each.shape)).sum() for each in out)
    return [*out, *torch.autograd.grad(total, tensors)]


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, :, None, None] + shift[:, :, None, None]


def scale_inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    kinds = {"generator": generator, "requires_grad": True}
    sums = dtype if dtype == torch.float64 else torch.float32
    scale, shift = (torch.randn(3, 88, dtype=sums, **kinds) for _ in range(2))
    return torch.randn(3, 88, 5, 7, dtype=dtype, **kinds), scale, shift


def check(found: list[Tensor], right: list[Tensor], tolerance: float) -> None:
    """Within the tolerance, as a share of the largest value."""
    for ours, expected in zip(found, right, strict=True):
        assert ours.dtype == expected.dtype
        expected = expected.detach().double()
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_interactions_are_the_plain_formulations_in_float64(shape: tuple[int, int, int, int]) -> None:
    tensors = inputs(shape)
    check(results(interactions, tensors), results(plainly, tensors), 1e-12)
    in_planes = results(plainly, tensors)[0]
    assert results(interactions, tensors)[0].is_contiguous(memory_format=torch.channels_last)
    assert in_planes.abs().max() > 0.5, "a comparison of something"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_other_types_are_float64_rounded(dtype: torch.dtype, tolerance: float) -> None:
    tensors = inputs((3, 2, 7, 9), dtype)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    found = results(interactions, tensors)
    assert [each.dtype for each in found] == [dtype, torch.float32, torch.float32, dtype, dtype]
    # What reaches a dead pixel is divided by the least norm: rounding noise, which the rectifier stops.
    alive = exact[0].unflatten(1, (-1, HEAD_CHANNELS)).square().sum(2, keepdim=True) > 0
    alive = alive.expand(-1, -1, HEAD_CHANNELS, -1, -1).flatten(1, 2)
    right = results(plainly, exact)
    found[3], right[3] = found[3] * alive, right[3] * alive
    for ours, expected in zip(found, right, strict=True):
        worst = tolerance * float(expected.abs().max()) * 4
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=worst)


def test_numerical_differentiation_agrees() -> None:
    generator = torch.Generator().manual_seed(0)
    z = (0.2 + torch.rand(2, 8, 3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    kernels = torch.randn(8, 1, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(interactions, (z, kernels))
    x, scale, shift = (each[:1].detach().requires_grad_() for each in scale_inputs())
    assert torch.autograd.gradcheck(scale_shift, (x, scale, shift))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_scale_and_shift_are_torchs(dtype: torch.dtype, tolerance: float) -> None:
    check(results(scale_shift, scale_inputs(dtype)), results(scaled, scale_inputs(dtype)), tolerance)


def test_torchs_own_checks_of_operations_pass() -> None:
    """Schema, fake tensors, autograd and tracing, with strides of both memory formats."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        z, kernels = (each.detach().float() for each in inputs((2, 2, 4, 6)))
        z = z.contiguous(memory_format=memory_format).requires_grad_()
        torch.library.opcheck(torch.ops.twistnet.interactions, (z, kernels.requires_grad_()))
        x, scale, shift = (each.detach() for each in scale_inputs(torch.float32))
        x = x.contiguous(memory_format=memory_format).requires_grad_()
        torch.library.opcheck(torch.ops.twistnet.scale_shift, (x, scale.requires_grad_(), shift.requires_grad_()))


MODULES = [{}, {"num_heads": 1}, {"num_heads": 3, "ais": False}, {"spiral": False}]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", MODULES)
def test_the_module_is_the_plain_one(options: dict[str, Any], training: bool) -> None:
    torch.manual_seed(0)
    passes = MultiHeadSTCI(24, **options).double().train(training)
    for parameter in passes.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain = copy.deepcopy(passes)
    plain.plain = True
    h = torch.randn(4, 24, 6, 5, dtype=torch.float64).relu().requires_grad_()
    gate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for module in (passes, plain):
        module.double()
    found, right = (results(module, (h, gate)) for module in (passes, plain))
    check(found, right, 1e-10)
    named = dict(plain.named_parameters())
    for module in (passes, plain):
        (module(h, gate) * torch.linspace(-1, 2, 24, dtype=torch.float64)[:, None, None]).sum().backward()
    for name, parameter in passes.named_parameters():
        expected = named[name].grad
        assert expected is not None
        worst = 1e-9 * max(float(expected.abs().max()), 1.0)
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=worst, msg=lambda m, n=name: f"{n}: {m}")
    for name, buffer in passes.named_buffers():
        torch.testing.assert_close(buffer, dict(plain.named_buffers())[name])


def test_second_derivatives_want_the_plain_formulation() -> None:
    module = MultiHeadSTCI(8, num_heads=1)
    h = torch.rand(2, 8, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(h).square().sum(), h, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.square().sum().backward()
    module.plain = True
    (gradient,) = torch.autograd.grad(module(h).square().sum(), h, create_graph=True)
    gradient.square().sum().backward()
    assert h.grad is not None


def test_a_compiled_module_is_the_same() -> None:
    """In one graph, with a gate and in training, running statistics included."""
    torch.manual_seed(0)
    module = MultiHeadSTCI(16)
    other = copy.deepcopy(module)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    h, gate = torch.randn(3, 16, 5, 4, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    check(results(compiled, (h, gate)), results(module, (h, gate)), 1e-6)
    torch.testing.assert_close(dict(other.named_buffers()), dict(module.named_buffers()))
    assert other.proj[1].num_batches_tracked == 1


def test_nothing_is_read_or_written_outside(tmp_path: Path) -> None:
    """The library's loops under sanitizers, with images down to a pixel."""
    for program in built_with_sanitizers(
        "interactions_fuzz.cpp", [Path(on_cpu.__file__).with_name("interactions.cpp")], tmp_path
    ):
        done = subprocess.run([program], capture_output=True, text=True, timeout=300)
        assert not done.returncode, done.stderr


# --- Triton's kernels -------------------------------------------------------------------------------------------------


def interpreted() -> None:
    from twistnet.interactions import on_card

    def by_kernels(z: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return on_card.interactions(z.detach(), kernels.detach())

    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 2**-7)):  # a unit of the type
        for shape in SHAPES:
            tensors = inputs(shape, dtype)
            right = on_cpu.interactions(*(each.detach() for each in tensors))
            found = by_kernels(*tensors)
            check(list(found), list(right), tolerance)
            grads = [torch.randn(each.shape).to(each.dtype) for each in right]
            z, kernels = (each.detach() for each in tensors)
            check(
                list(on_card.interactions_backward(z, kernels, *grads)),
                list(on_cpu.interactions_backward(z, kernels, *grads)),
                tolerance,
            )
        x, scale, shift = (each.detach() for each in scale_inputs(dtype))
        check([on_card.scale_shift(x, scale, shift)], [on_cpu.scale_shift(x, scale, shift)], tolerance)
        grad = torch.randn(x.shape).to(dtype)
        found, right = (list(each.scale_shift_backward(x, scale, grad)) for each in (on_card, on_cpu))
        check(found, right, tolerance)
    print("equal")


def test_the_kernels_are_the_compiled_loops() -> None:
    pytest.importorskip("triton")
    assert run_interpreted(__file__).endswith("equal\n")


SUMS = ("means", "squares", "grad_means", "grad_squares", "to_own", "to_twisted", "to_kernels", "to_scale", "to_shift")
TYPES = {
    **dict.fromkeys(("z", "products", "grad", "to_z", "x", "out", "to_x"), "*bf16"),
    **dict.fromkeys((*SUMS, "kernels", "scale", "shift"), "*fp32"),
    **dict.fromkeys(("height", "width", "pixels", "channels"), "i32"),
}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "name", ["interactions", "products_backward", "twist_backward", "scale_shift", "scale_shift_backward"]
)
def test_the_kernels_compile_without_a_card(name: str, capability: int) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from twistnet.interactions import kernels, on_card

    kernel = getattr(kernels, name)
    constants = {"BLOCK": on_card.BLOCK}
    if "COLUMNS" in kernel.arg_names:
        constants["COLUMNS"] = on_card.COLUMNS
    signature = {arg: "constexpr" if arg in constants else TYPES[arg] for arg in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(arg),): value for arg, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(compiled.asm["cubin"]) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [7, 14, 56])
def test_a_card_gives_the_cpus_result(size: int, dtype: torch.dtype) -> None:
    tensors = inputs((8, 4, size, size), dtype)
    on_the_card = tuple(each.detach().cuda().requires_grad_() for each in tensors)
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
    with torch.device("cuda"):
        found = [each.cpu() for each in results(interactions, on_the_card)]
    check(found, results(interactions, tensors), tolerance)


if __name__ == "__main__":
    interpreted()
