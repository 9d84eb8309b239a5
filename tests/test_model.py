"""TwistNet against a second formulation of it, written from the paper's description over the authors' tensor names."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import twistnet
from launch.version import VERSION
from loaders.errors import InputError
from twistnet.model import TwistNet

VARIANTS = ("twistnet18", "twistnet18_no_spiral", "twistnet18_no_ais", "twistnet18_first_order")
TWIST_BLOCKS = ("layer3.0", "layer3.1", "layer4.0", "layer4.1")


# --- the reference: a state dict with the authors' names, and a forward pass over it ----------------------------------


def authors_state(variant: str = "twistnet18", *, num_classes: int = 1000, num_heads: int = 4) -> dict[str, Tensor]:
    """Random weights, running statistics, gates and scales under the authors' names."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def conv(name: str, out_channels: int, in_channels: int, size: int) -> None:
        state[f"{name}.weight"] = normal(out_channels, in_channels, size, size) / math.sqrt(in_channels * size * size)

    def linear(name: str, out_features: int, in_features: int) -> None:
        state[f"{name}.weight"] = normal(out_features, in_features) / math.sqrt(in_features)
        state[f"{name}.bias"] = normal(out_features) / 2

    def affine(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + normal(channels) / 4
        state[f"{name}.bias"] = normal(channels) / 4

    def batch_norm(name: str, channels: int) -> None:
        affine(name, channels)
        state[f"{name}.running_mean"] = normal(channels) / 4
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("stem.0", 64, 3, 7)
    batch_norm("stem.1", 64)
    in_channels = 64
    for stage, channels in ((1, 64), (2, 128), (3, 256), (4, 512)):
        for block in (f"layer{stage}.0", f"layer{stage}.1"):
            conv(f"{block}.conv1", channels, in_channels, 3)
            batch_norm(f"{block}.bn1", channels)
            conv(f"{block}.conv2", channels, channels, 3)
            batch_norm(f"{block}.bn2", channels)
            if in_channels != channels:
                conv(f"{block}.downsample.0", channels, in_channels, 1)
                batch_norm(f"{block}.downsample.1", channels)
            in_channels = channels
            if block not in TWIST_BLOCKS or variant == "twistnet18_first_order":
                continue
            state[f"{block}.gate"] = torch.tensor(0.3 * stage)
            for head in range(num_heads):
                prefix = f"{block}.mhstci.heads.{head}"
                conv(f"{prefix}.reduce.0", 8, channels, 1)
                batch_norm(f"{prefix}.reduce.1", 8)
                if variant != "twistnet18_no_spiral":
                    state[f"{prefix}.twist.dwconv.weight"] = normal(8, 1, 3, 3)
                    state[f"{prefix}.twist.scale"] = 1 + normal(1, 8, 1, 1) / 2
                state[f"{prefix}.idx_i"] = torch.tensor([i for i in range(8) for j in range(8) if i <= j])
                state[f"{prefix}.idx_j"] = torch.tensor([j for i in range(8) for j in range(8) if i <= j])
            width = 44 * num_heads
            if variant != "twistnet18_no_ais":
                linear(f"{block}.mhstci.ais.fc.2", width // 4, width)
                linear(f"{block}.mhstci.ais.fc.4", width, width // 4)
            affine(f"{block}.mhstci.norm", width)
            conv(f"{block}.mhstci.proj.0", channels, width, 1)
            batch_norm(f"{block}.mhstci.proj.1", channels)
    linear("fc", num_classes, 512)
    return state


def reference_forward(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Logits in evaluation mode, head by head and pair by pair."""

    def batch_norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training=False, eps=1e-5)

    def l2_normalise(z: Tensor) -> Tensor:
        return z / z.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)

    def interaction(h: Tensor, name: str) -> Tensor:
        features = []
        head = 0
        while f"{name}.heads.{head}.reduce.0.weight" in state:
            prefix = f"{name}.heads.{head}"
            z = F.relu(batch_norm(F.conv2d(h, state[f"{prefix}.reduce.0.weight"]), f"{prefix}.reduce.1"))
            twisted = z
            if f"{prefix}.twist.scale" in state:
                twisted = F.conv2d(z, state[f"{prefix}.twist.dwconv.weight"], padding=1, groups=8)
                twisted = twisted * state[f"{prefix}.twist.scale"]
            z, twisted = l2_normalise(z), l2_normalise(twisted)
            features += [z[:, i] for i in range(8)]
            features += [z[:, i] * twisted[:, j] for i in range(8) for j in range(i, 8)]
            head += 1
        inter = torch.stack(features, dim=1)
        if f"{name}.ais.fc.2.weight" in state:
            a = inter.mean(dim=(2, 3))
            a = F.relu(F.linear(a, state[f"{name}.ais.fc.2.weight"], state[f"{name}.ais.fc.2.bias"]))
            a = torch.sigmoid(F.linear(a, state[f"{name}.ais.fc.4.weight"], state[f"{name}.ais.fc.4.bias"]))
            inter = inter * a[:, :, None, None]
        inter = F.group_norm(inter, 22, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
        return batch_norm(F.conv2d(inter, state[f"{name}.proj.0.weight"]), f"{name}.proj.1")

    x = F.relu(batch_norm(F.conv2d(images, state["stem.0.weight"], stride=2, padding=3), "stem.1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for block in [f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)]:
        stride = 2 if f"{block}.downsample.0.weight" in state else 1
        shortcut = x
        if stride == 2:
            shortcut = F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=2)
            shortcut = batch_norm(shortcut, f"{block}.downsample.1")
        h = F.relu(batch_norm(F.conv2d(x, state[f"{block}.conv1.weight"], stride=stride, padding=1), f"{block}.bn1"))
        x = batch_norm(F.conv2d(h, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2") + shortcut
        if f"{block}.gate" in state:
            x = x + torch.sigmoid(state[f"{block}.gate"]) * interaction(h, f"{block}.mhstci")
        x = F.relu(x)
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def images(size: int, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(5))


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_authors_layout_has_334_tensors() -> None:
    assert len(authors_state()) == 334


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_of_the_authors_layout_give_the_reference_logits(variant: str, size: int) -> None:
    state = authors_state(variant)
    model = timm.create_model(variant).eval()
    model.load_state_dict(state, strict=True)
    x = images(size, batch=2 if size == 96 else 1)
    with torch.no_grad():
        expected = reference_forward(state, x)
        assert expected.std() > 0.1  # else a comparison of numbers near zero
        torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=0)
        logits = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_the_interactions_matter_in_the_reference() -> None:
    """A closed gate, a turned kernel and no attention must change the logits, or the comparison above is blind."""
    state = authors_state()
    expected = reference_forward(state, images(96))
    for name, change in {
        "layer4.1.gate": lambda gate: gate - 20,
        "layer3.0.mhstci.heads.1.twist.dwconv.weight": lambda kernel: kernel.flip(3),
        "layer4.1.mhstci.ais.fc.4.weight": torch.zeros_like,
    }.items():
        changed = reference_forward({**state, name: change(state[name])}, images(96))
        assert (changed - expected).abs().max() > 1e-3, name


def test_gradients_equal_the_reference() -> None:
    state = authors_state(num_classes=10)
    for name, tensor in state.items():
        tensor.requires_grad_(tensor.is_floating_point() and ".running_" not in name)
    model = timm.create_model("twistnet18", num_classes=10).eval()
    model.load_state_dict(state)
    reference_forward(state, images(64)).square().sum().backward()
    model(images(64)).square().sum().backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in ("stem.0.weight", "layer3.0.gate", "layer3.1.mhstci.norm.bias", "layer4.0.mhstci.ais.fc.2.weight"):
        torch.testing.assert_close(ours[name], state[name].grad, rtol=1e-3, atol=1e-3 * float(ours[name].abs().max()))
    for name, dim in (("reduce.0.weight", 0), ("twist.dwconv.weight", 0), ("twist.scale", 1)):
        heads = [state[f"layer3.0.mhstci.heads.{head}.{name}"].grad for head in range(4)]
        fused = ours[f"layer3.0.mhstci.{name}"]
        torch.testing.assert_close(fused, torch.cat(heads, dim), rtol=1e-3, atol=1e-3 * float(fused.abs().max()))


def test_every_parameter_gets_a_gradient_in_training() -> None:
    torch.manual_seed(0)
    model = timm.create_model("twistnet18", num_classes=10).train()
    F.cross_entropy(model(images(64, batch=4)), torch.tensor([0, 3, 5, 9])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A constant added before the projection is taken away by its batch norm: that gradient is rounding noise.
        if not name.endswith("mhstci.norm.bias"):
            assert parameter.grad.abs().max() > 1e-8, name


def test_other_pair_order_is_refused() -> None:
    state = authors_state()
    name = "layer3.1.mhstci.heads.2.idx_j"
    state[name] = state[name].flip(0)
    with pytest.raises(InputError, match=r"layer3\.1\.mhstci\.heads\.2\.idx_j starts \[7, 7, 6"):
        timm.create_model("twistnet18").load_state_dict(state)


def test_a_missing_head_is_refused() -> None:
    state = {name: t for name, t in authors_state().items() if ".mhstci.heads.1." not in name}
    with pytest.raises(InputError, match=r"heads \[0, 2, 3\]"):
        timm.create_model("twistnet18").load_state_dict(state)


def test_weights_of_our_layout_load_strictly() -> None:
    model = timm.create_model("twistnet18", num_classes=5)
    other = timm.create_model("twistnet18", num_classes=5)
    other.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(images(64)), model.eval()(images(64)), atol=0, rtol=0)
    copied = copy.deepcopy(model)
    copied.load_state_dict(authors_state(num_classes=5), strict=True)


def test_first_order_equals_timm_resnet18() -> None:
    torch.manual_seed(0)
    resnet = timm.create_model("resnet18", zero_init_last=False).eval()
    model = timm.create_model("twistnet18_first_order").eval()
    rename = {"conv1": "stem.0", "bn1": "stem.1"}
    state = {}
    for name, tensor in resnet.state_dict().items():
        module, _, rest = name.partition(".")
        state[f"{rename.get(module, module)}.{rest}"] = tensor
    model.load_state_dict(state, strict=True)
    expected = resnet(images(96))
    assert expected.std() > 1e-2
    torch.testing.assert_close(model(images(96)), expected)


def test_initial_values_hold_after_construction() -> None:
    """The authors' constructor ends by making every convolution random again."""
    torch.manual_seed(0)
    model = timm.create_model("twistnet18")
    directions = [(1, 2), (2, 2), (2, 1), (2, 0)]  # row and column in the kernel: right, down-right, down, down-left
    for name in TWIST_BLOCKS:
        block = model.get_submodule(name)
        for head, (row, column) in enumerate(directions):
            expected = torch.zeros(8, 1, 3, 3)
            expected[:, :, 1, 1] = 0.5
            expected[:, :, row, column] = 0.5
            assert torch.equal(block.mhstci.twist.dwconv.weight[8 * head : 8 * head + 8], expected)
        assert block.mhstci.proj[0].weight.std().item() == pytest.approx(0.01, rel=0.03)
        # Kaiming, fan-out, of a head's own 8 channels.
        assert block.mhstci.reduce[0].weight.std().item() == pytest.approx(math.sqrt(2 / 8), rel=0.05)
        assert torch.equal(block.mhstci.twist.scale, torch.ones(1, 32, 1, 1))
        assert block.gate.shape == ()
        assert block.gate.item() == -2.0
    assert model.stem[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.05)
    assert model.layer4[1].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert model.layer3[0].downsample[0].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_a_twist_looks_one_step_along_its_direction() -> None:
    """Head 0 looks right: with its first kernel, a lone bright pixel shows in its own place and one to its left."""
    model = timm.create_model("twistnet18")
    z = torch.zeros(1, 32, 5, 5)
    z[:, :, 2, 2] = 1.0
    seen = [set(map(tuple, out.nonzero().tolist())) for out in model.layer3[0].mhstci.twist(z)[0, ::8]]
    assert seen == [{(2, 2), (2, 1)}, {(2, 2), (1, 1)}, {(2, 2), (1, 2)}, {(2, 2), (1, 3)}]


# --- timm's conventions -----------------------------------------------------------------------------------------------


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts() -> None:
    model = timm.create_model("twistnet18")
    assert num_parameters(model) == 12_077_852
    assert num_parameters(timm.create_model("twistnet18", num_classes=47)) == 11_588_963
    assert sum(num_parameters(model.get_submodule(f"{block}.mhstci")) for block in TWIST_BLOCKS) == 388_336
    assert sum(map(num_parameters, (model.stem, model.layer1, model.layer2))) == 683_072
    assert num_parameters(timm.create_model("twistnet18_first_order")) == 11_689_512


def test_version_and_registration() -> None:
    assert twistnet.__version__ == VERSION
    assert set(VARIANTS) <= set(timm.list_models("twistnet*"))
    cfg = timm.create_model("twistnet18").pretrained_cfg
    assert cfg["input_size"] == (3, 224, 224)
    assert (cfg["crop_pct"], cfg["classifier"], cfg["first_conv"]) == (0.95, "fc", "stem.0")


def test_features_and_head() -> None:
    model = timm.create_model("twistnet18", num_classes=47).eval()
    assert model.num_features == model.head_hidden_size == 512
    with torch.no_grad():
        x = images(224, batch=1)
        features = model.forward_features(x)
        assert features.shape == (1, 512, 7, 7)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(pooled, features.mean((2, 3)))
        logits = model(x)
        assert logits.shape == (1, 47)
        torch.testing.assert_close(logits, F.linear(pooled, model.fc.weight, model.fc.bias))
        model.reset_classifier(0)
        torch.testing.assert_close(model(x), pooled)
        model.reset_classifier(3, "max")
        torch.testing.assert_close(model(x), model.get_classifier()(features.amax((2, 3))))
        model.reset_classifier(3, "catavgmax")
        assert model.head_hidden_size == model.fc.in_features == 1024


def test_without_classes_the_model_gives_features_and_dropout_acts_in_training() -> None:
    model = timm.create_model("twistnet18", num_classes=0, drop_rate=1.0).eval()
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    features = model(images(64))
    assert features.shape == (2, 512)
    assert features.any()
    assert not model.train()(images(64)).any()  # all of them dropped


def test_constructor_options() -> None:
    model = timm.create_model("twistnet18", in_chans=1, num_classes=4, twist_stages=(2,), num_heads=6).eval()
    assert model(images(64, channels=1)).shape == (2, 4)
    assert [name for name, _ in model.named_parameters() if name.endswith("gate")] == ["layer2.0.gate", "layer2.1.gate"]
    kernels = model.layer2[0].mhstci.twist.dwconv.weight
    assert torch.equal(kernels[32:], kernels[:16])  # the fifth head turns as the first, the sixth as the second
    assert model.layer2[0].mhstci.proj[0].in_channels == 264


@pytest.mark.parametrize(
    ("options", "message"), [({"twist_stages": (4, 5)}, "4, 5"), ({"num_heads": 0}, "num_heads=0")]
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwistNet(**options)


def test_no_weights_are_hosted() -> None:
    with pytest.raises(InputError, match=r"twistnet18_no_ais has no weights hosted .* twistnet\.weights\.load"):
        timm.create_model("twistnet18_no_ais", pretrained=True)


def test_drop_path_grows_linearly_and_spares_the_first_block() -> None:
    model = timm.create_model("twistnet18", drop_path_rate=0.7)
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    # A block whose residual branch is always dropped gives its rectified shortcut.
    blocks[-1].drop_path.drop_prob = 1.0
    x = torch.randn(2, 512, 3, 3)
    assert torch.equal(blocks[-1].train()(x), x.relu())


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = timm.create_model("twistnet18", num_classes=3).eval()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images(64)).sum().backward()
        gradients.append(model.layer3[0].mhstci.reduce[0].weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_feature_pyramid_and_groups() -> None:
    model = timm.create_model("twistnet18", features_only=True).eval()
    shapes = [tuple(x.shape[1:]) for x in model(images(64))]
    assert shapes == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert model.feature_info.reduction() == [2, 4, 8, 16, 32]

    whole = timm.create_model("twistnet18")
    groups = timm.models.group_parameters(whole, whole.group_matcher())
    assert len(groups) == 10  # the stem, eight blocks, the classifier
    assert sum(len(names) for names in groups.values()) == len(list(whole.named_parameters()))
    undecayed = whole.no_weight_decay()
    assert undecayed == {f"{block}.{name}" for block in TWIST_BLOCKS for name in ("gate", "mhstci.twist.scale")}


def test_export_has_no_data_dependent_control_flow() -> None:
    model = timm.create_model("twistnet18", num_classes=5).eval()
    exported = torch.export.export(model, (images(64),))
    torch.testing.assert_close(exported.module()(images(64)), model(images(64)))
