"""Spiral-twisted channel interaction (STCI): the second-order module of TwistNet, arXiv 2602.07262.

The heads share one 1x1 convolution and one depthwise convolution; files of the authors' layout, which store every head
by itself, load through `fuse_heads`. The module computes in few passes, by `twistnet.interactions`; the plain
formulation, which that is held to, stands beside it for export, tracing and whatever differentiates twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loaders.errors import InputError
from twistnet.interactions import DEVICES, EPS, HEAD_CHANNELS, INTERACTION_CHANNELS, PAIRS, interactions, scale_shift

# One step (down, right) at 0, 45, 90 and 135 degrees.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))

_HEAD_TENSOR = re.compile(r"(?P<module>(?:.*\.)?)heads\.(?P<head>\d+)\.(?P<name>.+)")


class SpiralTwist(nn.Module):
    """Depthwise 3x3 convolution that looks one step along its head's direction, then a scale for each channel.

    A kernel starts as 0.5 at its centre and 0.5 one step along the direction; heads past the fourth repeat the four
    directions.

    Shapes: (B, 8 * num_heads, H, W) -> the same.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        channels = num_heads * HEAD_CHANNELS
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        nn.init.zeros_(self.dwconv.weight)
        with torch.no_grad():
            for head, kernels in enumerate(self.dwconv.weight.chunk(num_heads)):
                down, right = DIRECTIONS[head % len(DIRECTIONS)]
                kernels[:, :, 1, 1] = 0.5
                kernels[:, :, 1 + down, 1 + right] = 0.5

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.dwconv(z) * self.scale
        return out


class InteractionSelection(nn.Module):
    """Adaptive interaction selection (AIS): squeeze-and-excitation over the interaction channels.

    Shapes: (B, C, H, W) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 16)
        # The linear layers stand at 2 and 4, as in the authors' files.
        self.fc = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.fc(x)
        return x * weight[:, :, None, None]

    def weights(self, mean: Tensor) -> Tensor:
        """(B, C) between 0 and 1, from the means over the pixels, in their precision whatever the parameters have."""
        weight = mean
        for layer in list(self.fc.children())[2:]:
            linear = isinstance(layer, nn.Linear)
            weight = F.linear(weight, *(p.to(mean.dtype) for p in layer.parameters())) if linear else layer(weight)
        return weight


class MultiHeadSTCI(nn.Module):
    """Multi-head spiral-twisted channel interaction: products of channels, the second of each pair one step away.

    A head reduces the input to 8 channels z, twists them, normalises both over the channels, and gives z and the 36
    products z[i] * twisted[j] for i <= j. The heads' 44 channels each are weighed by AIS, normalised and projected.

    Shapes: (B, channels, H, W) -> the same.

    Args:
        channels: channels of the input and of the output.
        num_heads: heads, at least 1; their directions are 0, 45, 90, 135 degrees, repeated.
        spiral: False multiplies z by itself instead of by its twisted neighbour.
        ais: False leaves the attention over the interaction channels out.

    Attributes:
        plain: True computes the formulation as the paper writes it, step by step: for second derivatives and
            `torch.func`. Export, tracing and devices without `twistnet.interactions` take it by themselves.
    """

    plain: bool = False
    first: Tensor
    second: Tensor

    def __init__(self, channels: int, *, num_heads: int = 4, spiral: bool = True, ais: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        reduced = num_heads * HEAD_CHANNELS
        interactions = num_heads * INTERACTION_CHANNELS
        num_groups = max(groups for groups in range(1, 33) if interactions % groups == 0)

        reduce = nn.Conv2d(channels, reduced, 1, bias=False)
        project = nn.Conv2d(interactions, channels, 1, bias=False)
        self.reduce = nn.Sequential(reduce, nn.BatchNorm2d(reduced), nn.ReLU())
        self.twist = SpiralTwist(num_heads) if spiral else nn.Identity()
        self.ais = InteractionSelection(interactions) if ais else nn.Identity()
        self.norm = nn.GroupNorm(num_groups, interactions)
        self.proj = nn.Sequential(project, nn.BatchNorm2d(channels))
        for name, indices in zip(("first", "second"), zip(*PAIRS, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(indices), persistent=False)

        with torch.no_grad():
            # A head is a convolution by itself: its fan-out is its own 8 channels, not those of all heads.
            for head in reduce.weight.chunk(num_heads):
                nn.init.kaiming_normal_(head, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(project.weight, std=0.01)
        self.register_load_state_dict_pre_hook(_fuse_before_loading)  # type: ignore[no-untyped-call]

    def forward(self, h: Tensor, gate: Tensor | None = None) -> Tensor:
        """The interactions of h, multiplied by `gate`, a scalar, where one is given."""
        traced = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined, no-untyped-call]
        if self.plain or traced or h.device.type not in DEVICES:
            out: Tensor = self.proj(self.norm(self.ais(self._products(h))))
            return out if gate is None else gate * out
        project, batch_norm = self.proj
        out = project(self._weighed(h))
        if gate is None:
            return batch_norm(out)  # type: ignore[no-any-return]
        if type(batch_norm) is not nn.BatchNorm2d:  # statistics of all ranks
            return gate * batch_norm(out)  # type: ignore[no-any-return]
        return _gated(batch_norm, out, gate)

    def _products(self, h: Tensor) -> Tensor:
        """(B, num_heads * 44, H, W): every head's normalised channels and their products."""
        z = self.reduce(h)
        twisted = self.twist(z)
        heads = (self.num_heads, HEAD_CHANNELS)
        z = F.normalize(z.unflatten(1, heads), dim=2, eps=EPS)
        twisted = F.normalize(twisted.unflatten(1, heads), dim=2, eps=EPS)
        pairs = z[:, :, self.first] * twisted[:, :, self.second]
        return torch.cat((z, pairs), dim=2).flatten(1, 2)

    def _weighed(self, h: Tensor) -> Tensor:
        """The same weighed and normalised, by one scale and one shift for each channel of a sample.

        With weights a, group norm's mean of a group is that of a * mean(x) and its second moment that of
        a^2 * mean(x^2).
        """
        z = self.reduce(h)
        products, mean, mean_square = interactions(z, self._kernels(z))
        with torch.autocast(z.device.type, enabled=False):  # a few numbers a sample: rounding them would save nothing
            weight = self.ais.weights(mean) if isinstance(self.ais, InteractionSelection) else torch.ones_like(mean)
            groups = (len(z), self.norm.num_groups, mean.shape[1] // self.norm.num_groups)
            centre = (weight * mean).view(groups).mean(2, keepdim=True)
            power = (weight.square() * mean_square).view(groups).mean(2, keepdim=True)
            inverse = torch.rsqrt((power - centre.square()).clamp_min(0) + self.norm.eps)
            factor = inverse * self.norm.weight.view(groups[1:])
            scale = weight * factor.flatten(1)
            shift = self.norm.bias - (centre * factor).flatten(1)
        return scale_shift(products, scale, shift)

    def _kernels(self, z: Tensor) -> Tensor:
        """(num_heads * 8, 1, 3, 3): the twist's kernels with its scale; without a twist, those that change nothing."""
        if isinstance(self.twist, SpiralTwist):
            kernels: Tensor = self.twist.dwconv.weight
            return kernels * self.twist.scale.view(-1, 1, 1, 1)
        kernels = z.new_zeros(z.shape[1], 1, 3, 3)
        kernels[:, :, 1, 1] = 1.0
        return kernels


def _gated(batch_norm: nn.BatchNorm2d, x: Tensor, gate: Tensor) -> Tensor:
    """gate * batch_norm(x): in the affine part of the batch norm the gate costs nothing.

    The module itself is not touched but for its statistics, so that several threads may evaluate one model.
    """
    momentum = batch_norm.momentum
    if batch_norm.training and batch_norm.num_batches_tracked is not None:
        batch_norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(batch_norm.num_batches_tracked)
    return F.batch_norm(
        x,
        batch_norm.running_mean,
        batch_norm.running_var,
        gate * batch_norm.weight,
        gate * batch_norm.bias,
        batch_norm.training or batch_norm.running_mean is None,
        momentum or 0.0,
        batch_norm.eps,
    )


def fuse_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join the tensors of separate heads (`...heads.N.reduce.0.weight`) into ours (`...reduce.0.weight`).

    Other tensors pass unchanged; so does a state in our layout.

    Raises:
        InputError: a head is missing, the heads differ in shape, or a head's pairs are in another order than ours.
    """
    fused: dict[str, Tensor] = {}
    separate: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        match = _HEAD_TENSOR.fullmatch(key)
        if match is None:
            fused[key] = tensor
        elif match["name"] in ("idx_i", "idx_j"):
            expected = [pair[match["name"] == "idx_j"] for pair in PAIRS]
            if tensor.tolist() != expected:
                raise InputError(
                    f"{key} starts {tensor.flatten()[:12].tolist()} where {expected[:12]} is expected (all pairs "
                    "i <= j of 8 channels, i outer): the file is of another network, so build the model it was "
                    "trained as."
                )
        else:
            separate.setdefault(match["module"] + match["name"], {})[int(match["head"])] = tensor
    for key, heads in separate.items():
        fused[key] = _join(key, heads)
    return fused


def _join(key: str, heads: Mapping[int, Tensor]) -> Tensor:
    parts = [heads[head] for head in sorted(heads)]
    shapes = sorted({tuple(part.shape) for part in parts})
    if sorted(heads) != list(range(len(heads))) or len(shapes) > 1:
        raise InputError(
            f"{key} is stored for heads {sorted(heads)} with shapes {shapes} where heads 0, 1, 2, ... of one shape are "
            "expected: take an undamaged copy of the file."
        )
    if parts[0].ndim == 0:  # num_batches_tracked: the heads have seen the same batches
        return parts[0]
    return torch.cat(parts, dim=1 if key.endswith("twist.scale") and parts[0].ndim > 1 else 0)


def _fuse_before_loading(_module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    separate = {key: state.pop(key) for key in list(state) if key.startswith(f"{prefix}heads.")}
    state.update(fuse_heads(separate))
