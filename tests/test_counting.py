"""Parameters and multiply-adds against what timm and the paper publish, and against numbers worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import twistnet
from loaders import InputError
from twistnet.__main__ import main
from twistnet.counting import cost, multiply_adds
from twistnet.variants import NAMES

# Name: side, millions of parameters, GMACs. timm's results/benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv (columns
# param_count and infer_gmacs); of TwistNet-18 arXiv 2602.07262, whose GFLOPs are multiply-adds: its ResNet-18 has 1.82.
PUBLISHED = {
    "resnet18": (224, 11.69, 1.82),
    "seresnet18": (224, 11.78, 1.82),
    "convnextv2_nano": (224, 15.62, 2.46),
    "fastvit_sa12": (256, 11.58, 1.96),
    "repvit_m1_5": (224, 14.64, 2.31),
    "convnext_tiny": (224, 28.59, 4.47),
    "swin_tiny": (224, 28.29, 4.51),
    "twistnet18": (224, 12.08, 1.85),
    "resnet50": (224, 25.56, 4.11),
    "vit_small_patch16_224": (224, 22.05, 4.61),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_published(name: str) -> None:
    size, millions, gmacs = PUBLISHED[name]
    found = cost(name, size=size)
    assert found.parameters == found.parameters_1000 == pytest.approx(1e6 * millions, rel=0.01)
    assert found.multiply_adds == pytest.approx(1e9 * gmacs, rel=0.01)


def test_a_small_network_is_counted_by_hand() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.conv(x))
            return self.fc((x * x.sigmoid()).mean((2, 3)))

    pixels = 8 * 8
    assert multiply_adds(Gated(), 8) == pixels * 4 * 27 + pixels * 4 + pixels * 4 + 4 * 10


def test_a_twist_block_costs_what_its_parts_do() -> None:
    """TwistNet-18 at 224 px over the plain layout: by the operations that the paper writes."""
    assert twistnet.__version__
    more = 0
    for channels, pixels in ((256, 14 * 14), (256, 14 * 14), (512, 7 * 7), (512, 7 * 7)):
        more += pixels * (channels * 32 + 32 * 9 + 176 * channels)  # to 4 heads of 8, the twist, the projection
        more += pixels * (32 + 176 + channels)  # norms
        more += pixels * (32 + 4 * 36 + 176 + channels)  # the twist's scale, pairs, attention, the gate
        more += 2 * 176 * 44  # the attention's layers
    plain, twisted = (cost(name).multiply_adds for name in ("twistnet18_first_order", "twistnet18"))
    assert twisted - plain == more


def test_counting_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("twistnet18", num_classes=5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    multiply_adds(model, 64)
    assert model.training
    assert not model.layer3[0].mhstci.plain
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_variants_are_what_their_names_say() -> None:
    def of(name: str) -> nn.Module:
        model: nn.Module = timm.create_model(f"twistnet18_{name}", num_classes=3)
        return model

    twisted = {"s4": "4", "s234": "234", "s1234": "1234", "h1": "34", "no_gate": "34"}
    for name, stages in twisted.items():
        found = {key[5] for key, _ in of(name).named_modules() if key.endswith(".mhstci")}
        assert found == set(stages), name
    assert [of(name).layer3[0].mhstci.num_heads for name in ("h1", "h2", "h8", "s234")] == [
        1,
        2,
        8,
        4,
    ]
    fixed, none = of("fixed_gate"), of("no_gate")
    assert not fixed.layer4[0].gate.requires_grad
    assert float(fixed.layer4[0].openness()) == pytest.approx(1 / (1 + 2.718281828**2))
    fixed.load_state_dict(timm.create_model("twistnet18", num_classes=3).state_dict())
    assert not any(name.endswith("gate") for name in none.state_dict())
    h = torch.rand(2, 512, 7, 7)
    block = none.layer4[1].eval()
    torch.testing.assert_close(block.residual(h), block.bn2(block.conv2(h)) + block.mhstci(h))
    with pytest.raises(InputError, match="gate='half' is unknown: choose one of learned, fixed, none"):
        timm.create_model("twistnet18", gate="half")


def test_a_fixed_gate_does_not_move() -> None:
    model = timm.create_model("twistnet18_fixed_gate", num_classes=3)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert model.layer3[0].gate.grad is None
    assert model.layer3[0].mhstci.proj[0].weight.grad.abs().sum() > 0


def test_swin_tiny_is_timms(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    timms = timm.create_model(name)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timms.state_dict(), file)
    ours = timm.create_model("swin_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(file)}).state_dict()
    assert list(ours) == list(timms.state_dict())
    assert all(torch.equal(value, ours[key]) for key, value in timms.state_dict().items())
    cfgs = [timm.get_pretrained_cfg(each) for each in ("swin_tiny", name)]
    assert cfgs[0].hf_hub_id == cfgs[1].hf_hub_id == f"timm/{name}.ms_in1k"
    assert timm.create_model("swin_tiny", num_classes=3, img_size=96)(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


def test_the_command_lists_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "costs" / "models.csv"
    names = "resnet18,twistnet18,test_resnet"
    assert main(["models", f"--models={names}", "--size=64", f"--csv={table}"]) == 0
    printed = capsys.readouterr().out
    assert "12,077,852   11,588,963" in printed
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == names.split(",")
    assert {row["size"] for row in rows} == {"64"}
    assert rows[0]["parameters_1000"] == str(cost("resnet18", size=64).parameters) == "11689512"
    assert main(["models", "--models=resnet19"]) == 1
    assert "model 'resnet19' is unknown to timm: did you mean resnet1" in capsys.readouterr().err
    assert main(["models", "--size=16"]) == 1


def test_every_listed_model_is_timms() -> None:
    assert len(set(NAMES)) == 19
    assert all(timm.is_model(name) for name in NAMES)
