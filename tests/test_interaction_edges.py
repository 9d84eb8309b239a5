"""Where a twist block's passes could go wrong unseen: rounding, strides, norms, autocast, export, no library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from test_interactions import inputs, plainly, scale_inputs, scaled
from torch import Tensor

from twistnet import stci
from twistnet.interactions import DEVICES, HEAD_CHANNELS, interactions, on_cpu, scale_shift
from twistnet.stci import MultiHeadSTCI

pytestmark = pytest.mark.skipif("cpu" not in DEVICES, reason=str(on_cpu.why_missing()))


def test_scaling_rounds_once() -> None:
    x, scale, shift = (each.detach() for each in scale_inputs(torch.bfloat16))
    exact = scaled(x.double(), scale.double(), shift.double())
    found = scale_shift(x, scale, shift)
    assert found.dtype == torch.bfloat16
    # The few that lie within float32's rounding of the middle of two numbers may go either way.
    assert float((found != exact.to(torch.bfloat16)).float().mean()) < 1e-3
    twice = scaled(x, scale.bfloat16(), shift.bfloat16())
    assert float((twice != exact.to(torch.bfloat16)).float().mean()) > 0.1


def gradients(function: Any, tensors: tuple[Tensor, ...], weight: float = 1.0) -> tuple[Tensor, ...]:
    """Of plain sums, whose gradients are one number, expanded."""
    out = function(*tensors)
    total = weight * sum(each.sum() for each in (out if isinstance(out, tuple) else (out,)))
    return torch.autograd.grad(total, tensors)


def test_strides_do_not_matter() -> None:
    z, kernels = (each.detach() for each in inputs((2, 2, 5, 6)))
    wide = torch.stack((kernels, kernels + 1), dim=1).flatten(0, 1)[::2].requires_grad_()
    planes = z.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    assert not wide.is_contiguous()
    assert not planes.is_contiguous()
    for ours, right in zip(interactions(planes, wide), plainly(planes, wide), strict=True):
        torch.testing.assert_close(ours, right)
    for ours, right in zip(gradients(interactions, (planes, wide)), gradients(plainly, (planes, wide)), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)
    x, scale, shift = (each.detach() for each in scale_inputs())
    turned = tuple(each.T.contiguous().T.requires_grad_() for each in (scale, shift))
    given = (x.transpose(1, 3).contiguous().transpose(1, 3).requires_grad_(), *turned)
    for ours, right in zip(gradients(scale_shift, given), gradients(scaled, given), strict=True):
        torch.testing.assert_close(ours, right)


def test_below_the_least_norm_the_divisor_is_a_constant() -> None:
    """Its gradient must not be that of a division by the pixel's own norm."""
    z, kernels = (each.detach() for each in inputs((2, 2, 5, 6)))
    z = (torch.rand_like(z) * 2e-7).requires_grad_()  # of 8 channels: below 1e-6, as is what the kernels make of them
    kernels = (kernels * 0.1).requires_grad_()
    norms = z.unflatten(1, (-1, HEAD_CHANNELS)).norm(dim=2)
    assert 0 < float(norms.min()) < float(norms.max()) < 1e-6
    for ours, right in zip(gradients(interactions, (z, kernels)), gradients(plainly, (z, kernels)), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=0)


def test_backward_operations_are_what_they_say_they_are() -> None:
    """Shapes, types and strides of fake tensors, which compiled models trust."""
    for dtype in (torch.float32, torch.bfloat16):
        x, scale, _ = (each.detach() for each in scale_inputs(dtype))
        x = x.contiguous(memory_format=torch.channels_last)
        torch.library.opcheck(torch.ops.twistnet.scale_shift_backward, (x, scale, x))
        z, kernels = (each.detach() for each in inputs((2, 2, 4, 6), dtype))
        z = z.contiguous(memory_format=torch.channels_last)
        products, mean, square = interactions(z, kernels)
        torch.library.opcheck(torch.ops.twistnet.interactions_backward, (z, kernels, products, mean, square))


def test_weights_are_not_rounded_by_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    module = MultiHeadSTCI(16)
    h = torch.randn(3, 16, 5, 4)
    with torch.no_grad():
        found = interactions(module.reduce(h), module._kernels(h))
    scales = []

    def noted(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        scales.append((scale.detach(), shift.detach()))
        return scale_shift(x, scale, shift)

    monkeypatch.setattr(stci, "interactions", lambda *_: found)
    monkeypatch.setattr(stci, "scale_shift", noted)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            module(h)
    (plain_scale, plain_shift), (scale, shift) = scales
    assert torch.equal(scale, plain_scale)
    assert torch.equal(shift, plain_shift)


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("twistnet18", num_classes=5).eval()


def test_exported_and_traced_models_have_none_of_our_operations(model: torch.nn.Module) -> None:
    """Else nobody could run them without this package."""
    images = torch.randn(2, 3, 64, 64)
    exported = torch.export.export(model, (images,))
    assert not [node for node in exported.graph.nodes if "twistnet" in str(node.target)]
    traced = torch.jit.trace(model, images)
    assert "twistnet::" not in str(traced.inlined_graph)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-4)


def test_an_onnx_file_gives_the_same(model: torch.nn.Module, tmp_path: Path) -> None:
    """In onnxruntime, for any number of images."""
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    path = tmp_path / "twistnet18.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 64, 64),),
        path,
        input_names=["images"],
        dynamic_shapes={"x": {0: torch.export.Dim("count")}},
        dynamo=True,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.randn(3, 3, 64, 64)
    (found,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=0, atol=1e-4)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(on_cpu, "__file__", str(tmp_path / "on_cpu.py"))
    caches = (on_cpu._library, on_cpu.why_missing)
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("without_library")
def test_a_missing_library_is_told() -> None:
    assert on_cpu.why_missing() == "the compiled interactions were not built: install g++, then twistnet again"


def test_without_a_library_a_model_computes_the_same(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        right = model(images)
        monkeypatch.setattr(stci, "DEVICES", frozenset())
        monkeypatch.setattr(stci, "interactions", None)  # which would fail
        torch.testing.assert_close(model(images), right, rtol=1e-4, atol=1e-4)
