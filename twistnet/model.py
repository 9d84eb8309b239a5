"""TwistNet-18, registered with timm: a ResNet-18 whose last stages add second-order channel interactions.

Source: "TwistNet-2D: Learning Second-Order Channel Interactions via Spiral Twisting for Texture Recognition",
arXiv 2602.07262. Parameter names are the authors', except that the heads of an interaction are fused (see
`twistnet.stci`); weights that the authors' code saved load all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from loaders.errors import InputError
from twistnet.stci import MultiHeadSTCI

__all__ = ["BasicBlock", "TwistBlock", "TwistNet"]  # register_model appends the entry points

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2
Gate: TypeAlias = Literal["learned", "fixed", "none"]


def _conv(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class BasicBlock(nn.Module):
    """The basic residual block of ResNet: two 3x3 convolutions and a shortcut.

    Shapes: (B, in_channels, H, W) -> (B, channels, H / stride, W / stride).

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: of the first convolution and of the shortcut.
        drop_path: probability that a sample skips the residual branch in training (stochastic depth).
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def residual(self, h: Tensor) -> Tensor:
        """What is added to the shortcut, from h = relu(bn1(conv1(x))); same shape as h."""
        out: Tensor = self.bn2(self.conv2(h))
        return out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.drop_path(self.residual(h)) + self.downsample(x))


class TwistBlock(BasicBlock):
    """A basic block that also adds gated second-order interactions of its hidden channels.

    The gate is one scalar before the sigmoid; it starts at -2.0, so that the interactions enter at 12 %. A "fixed" one
    is not learned, and with "none" the interactions enter whole.
    Shapes and arguments: as `BasicBlock`, then those of `MultiHeadSTCI`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        drop_path: float = 0.0,
        num_heads: int = 4,
        spiral: bool = True,
        ais: bool = True,
        gate: Gate = "learned",
    ) -> None:
        super().__init__(in_channels, channels, stride=stride, drop_path=drop_path)
        self.mhstci = MultiHeadSTCI(channels, num_heads=num_heads, spiral=spiral, ais=ais)
        start = torch.tensor(-2.0)
        self.gate = None if gate == "none" else nn.Parameter(start, requires_grad=gate == "learned")

    def residual(self, h: Tensor) -> Tensor:
        interaction: Tensor = self.mhstci(h, self.openness())
        return super().residual(h) + interaction

    def openness(self) -> Tensor | None:
        """(), 0 to 1: the share at which the interactions enter; None without a gate."""
        return None if self.gate is None else torch.sigmoid(self.gate)


class TwistNet(nn.Module):
    """TwistNet-18: a ResNet-18 with twist blocks in some stages.

    Shapes: (B, in_chans, H, W) -> (B, num_classes); the features before pooling are (B, 512, H / 32, W / 32).

    Args:
        num_classes: outputs of the classifier; 0 leaves the classifier out.
        in_chans: channels of the images.
        global_pool: timm's name of the pooling ("avg", "max", "avgmax", "catavgmax"; "" for none, without classifier).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        twist_stages: which of the stages 1 to 4 have twist blocks; with none this is a ResNet-18.
        num_heads: heads of each interaction, at least 1.
        spiral: False leaves the twist out (the paper's variant without spiral).
        ais: False leaves the attention over interaction channels out (the paper's variant without AIS).
        gate: of the interactions, as `TwistBlock` has it.

    Raises:
        InputError: a stage outside 1 to 4, no head, or an unknown gate.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        twist_stages: Collection[int] = (3, 4),
        num_heads: int = 4,
        spiral: bool = True,
        ais: bool = True,
        gate: Gate = "learned",
    ) -> None:
        super().__init__()
        if not set(twist_stages) <= {1, 2, 3, 4}:
            raise InputError(f"twist_stages={tuple(twist_stages)} names a stage outside 1 to 4: choose among these.")
        if num_heads < 1:
            raise InputError(f"num_heads={num_heads} is below 1: use at least one head, or the model without twist.")
        if gate not in get_args(Gate):
            raise InputError(f"gate={gate!r} is unknown: choose one of {', '.join(get_args(Gate))}.")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.stem = nn.Sequential(_conv(in_chans, WIDTHS[0], 7, 2), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [{"num_chs": WIDTHS[0], "reduction": 2, "module": "stem"}]
        stages = []
        in_channels = WIDTHS[0]
        last_block = len(WIDTHS) * BLOCKS_PER_STAGE - 1
        build: Callable[..., BasicBlock]
        for stage, channels in enumerate(WIDTHS, start=1):
            blocks = []
            for block in range(BLOCKS_PER_STAGE):
                stride = 2 if stage > 1 and block == 0 else 1
                drop_path = drop_path_rate * ((stage - 1) * BLOCKS_PER_STAGE + block) / last_block
                if stage in twist_stages:
                    build = partial(TwistBlock, num_heads=num_heads, spiral=spiral, ais=ais, gate=gate)
                else:
                    build = BasicBlock
                blocks.append(build(in_channels, channels, stride=stride, drop_path=drop_path))
                in_channels = channels
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": 2 ** (stage + 1), "module": f"layer{stage}"})
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

        self.num_features = in_channels
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, 512, H / 32, W / 32)."""
        x = self.maxpool(self.stem(x))
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        if self.grad_checkpointing:
            out: Tensor = checkpoint_seq(layers, x, flatten=True)
            return out
        for layer in layers:
            x = layer(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 512, h, w) -> (B, num_classes), or the pooled features (B, head_hidden_size) with `pre_logits`."""
        x = F.dropout(self.global_pool(x), p=self.drop_rate, training=self.training)
        if pre_logits:
            return x
        logits: Tensor = self.fc(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer; an identity without classes."""
        classifier: nn.Module = self.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, random classifier in place, and another pooling where one is named."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        weight = self.stem[0].weight
        self.fc.to(device=weight.device, dtype=weight.dtype)
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that sort parameters into the stem and blocks, for timm's layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Gates and twist scales: factors whose resting point is not 0."""
        return {name for name, _ in self.named_parameters() if name.endswith((".gate", ".twist.scale"))}


def default_cfg() -> dict[str, Any]:
    """What timm is told of every variant."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "fc",
        "paper_ids": "arXiv:2602.07262",
    }


default_cfgs = generate_default_cfgs(
    {
        "twistnet18": default_cfg(),
        "twistnet18_no_spiral": default_cfg(),
        "twistnet18_no_ais": default_cfg(),
        "twistnet18_first_order": default_cfg(),
    }
)


def create(variant: str, pretrained: bool, **kwargs: Any) -> TwistNet:
    """A TwistNet by its name in timm, with the arguments that make it one.

    Raises:
        InputError: for pretrained weights, which nobody hosts.
    """
    # timm passes both of these, set only where the caller brings a source of weights.
    has_source = kwargs.get("pretrained_cfg") or kwargs.get("pretrained_cfg_overlay")
    if pretrained and not has_source:
        raise InputError(
            f"{variant} has no weights hosted for pretrained=True: build it without and call "
            "twistnet.weights.load(model, path) with a weights file."
        )
    model: TwistNet = build_model_with_cfg(TwistNet, variant, pretrained, **kwargs)
    return model


def twistnet18(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """TwistNet-18 of arXiv 2602.07262: twist blocks in stages 3 and 4; 12,077,852 parameters at 1000 classes."""
    return create("twistnet18", pretrained, **kwargs)


def twistnet18_no_spiral(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """The paper's variant whose pairs are products of channels at the same position."""
    return create("twistnet18_no_spiral", pretrained, **{"spiral": False, **kwargs})


def twistnet18_no_ais(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """The paper's variant without attention over the interaction channels."""
    return create("twistnet18_no_ais", pretrained, **{"ais": False, **kwargs})


def twistnet18_first_order(pretrained: bool = False, **kwargs: Any) -> TwistNet:
    """The paper's variant without second-order interactions: the layout of a plain ResNet-18."""
    return create("twistnet18_first_order", pretrained, **{"twist_stages": (), **kwargs})


for _entry in (twistnet18, twistnet18_no_spiral, twistnet18_no_ais, twistnet18_first_order):
    register_model(_entry)
