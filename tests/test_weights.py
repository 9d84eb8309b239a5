"""Loading is complete, counted, or refused with the model unchanged."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from loaders.errors import InputError
from twistnet import weights

NUM_PARAMETERS = 12_077_852


def twistnet18(seed: int, **options: Any) -> nn.Module:
    """A TwistNet whose every tensor is random, its statistics too."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model("twistnet18", **options)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.random_(1, 9) if tensor.dtype == torch.int64 else tensor.uniform_(0.1, 1)
    return model


def authors_layout(model: nn.Module) -> dict[str, Tensor]:
    """The model's state as the authors' code would save it: every head by itself, with the indices of its pairs."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        match = re.fullmatch(r"(.*\.mhstci)\.((?:reduce|twist)\..*)", name)
        if match is None:
            state[name] = tensor
            continue
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            part = tensor if tensor.ndim == 0 else tensor[:, own] if name.endswith("scale") else tensor[own]
            state[f"{match[1]}.heads.{head}.{match[2]}"] = part.clone()
            state[f"{match[1]}.heads.{head}.idx_i"] = torch.triu_indices(8, 8)[0]
            state[f"{match[1]}.heads.{head}.idx_j"] = torch.triu_indices(8, 8)[1]
    return state


def clone(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(model: nn.Module, state: dict[str, Tensor]) -> set[str]:
    own = model.state_dict()
    assert own.keys() == state.keys()
    return {name for name, tensor in own.items() if not torch.equal(tensor, state[name])}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an empty repository beside it, and no network."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(weights, "REPOSITORY", tmp_path / "repository")

    def refuse() -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "get_session", refuse)
    return tmp_path / "work"


@pytest.mark.parametrize("kind", ["plain", "checkpoint", "state_dict", "ddp", "compiled", "safetensors"])
def test_every_tensor_of_the_authors_layout_loads(tmp_path: Path, kind: str) -> None:
    source = twistnet18(1)
    state = authors_layout(source)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        prefix = {"ddp": "module.", "compiled": "_orig_mod.module."}.get(kind, "")
        content: Any = {prefix + name: tensor for name, tensor in state.items()}
        if kind == "checkpoint":
            content = {"model": content, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
        torch.save({"state_dict": content} if kind == "state_dict" else content, path)
    model = twistnet18(2)
    report = weights.load(model, path)
    # The attention's own fc layers too, which a search for "fc" would leave out.
    assert differing(model, clone(source)) == set()
    assert report == weights.LoadReport(
        path=str(path),
        tensors=334,
        parameters=NUM_PARAMETERS,
        total_parameters=NUM_PARAMETERS,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.mark.parametrize("num_classes", [47, 0])
def test_only_the_classifier_is_left_out_for_other_classes(tmp_path: Path, num_classes: int) -> None:
    source = twistnet18(1)
    torch.save(authors_layout(source), tmp_path / "w.pt")
    model = twistnet18(2, num_classes=num_classes)
    before = clone(model)
    report = weights.load(model, tmp_path / "w.pt")
    body = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    assert len(body) == 204
    assert differing(model, {**before, **body}) == set()
    assert report.skipped == ("fc.bias", "fc.weight")
    assert report.tensors == 332
    assert report.parameters == NUM_PARAMETERS - 513_000
    assert report.total_parameters - report.parameters == 513 * num_classes
    assert "fc.bias, fc.weight" in report.message()


def test_a_file_without_classifier_loads(tmp_path: Path) -> None:
    torch.save(twistnet18(1, num_classes=0).state_dict(), tmp_path / "w.pt")
    report = weights.load(twistnet18(2, num_classes=5), tmp_path / "w.pt")
    assert report.skipped == ("fc.bias", "fc.weight")
    assert report.tensors == 204


DAMAGES = {
    "missing": (lambda state: state.pop("layer3.0.mhstci.ais.fc.2.weight"), r"missing tensors layer3\.0\.mhstci\.ais"),
    "unexpected": (lambda state: state.update(other=torch.ones(1)), "unexpected tensors other"),
    "wrong shape": (
        lambda state: state.update({"layer1.0.conv1.weight": torch.ones(64, 32, 3, 3)}),
        r"layer1\.0\.conv1\.weight is \(64, 32, 3, 3\) .* and \(64, 64, 3, 3\)",
    ),
    "integers": (
        lambda state: state.update({"layer1.0.bn1.bias": torch.ones(64, dtype=torch.int8)}),
        r"layer1\.0\.bn1\.bias is \(64,\) of integers",
    ),
    "claims more than it stores": (
        lambda state: state.update({"layer1.0.bn1.bias": torch.ones(1).expand(10**12)}),
        r"layer1\.0\.bn1\.bias.* no whole tensor",
    ),
    "no tensor": (lambda state: state.update({"layer1.0.bn1.bias": 3}), r"layer1\.0\.bn1\.bias.* no whole tensor"),
    "other pairs": (
        lambda state: state.update({"layer4.1.mhstci.heads.3.idx_i": torch.arange(36)}),
        r"layer4\.1\.mhstci\.heads\.3\.idx_i starts",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    state = authors_layout(twistnet18(1))
    change, message = DAMAGES[damage]
    change(state)
    torch.save(state, tmp_path / "w.pt")
    model = twistnet18(2)
    before = clone(model)
    with pytest.raises(InputError, match=message):
        weights.load(model, tmp_path / "w.pt")
    assert differing(model, before) == set()


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights file .*absent\.pt: .*--weights none"):
        weights.load(nn.Linear(2, 2), tmp_path / "absent.pt")
    with pytest.raises(InputError, match=r"absent\.pt"):
        weights.auto_load(nn.Linear(2, 2), "linear", tmp_path / "absent.pt")


class Hostile:
    """Unpickles by making a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


def test_unreadable_files_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Hostile(tmp_path / "executed")}, tmp_path / "hostile.pt")
    model = nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    for name in ("text.pt", "empty.pt", "text.safetensors", "list.pt", "hostile.pt", "cut.pt"):
        with pytest.raises(InputError, match=name):
            weights.load(model, tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_any_timm_model_loads(tmp_path: Path) -> None:
    source = timm.create_model("mobilenetv3_small_050")
    weights.save(source, tmp_path / "w.pt")
    model = timm.create_model("mobilenetv3_small_050", num_classes=7)
    report = weights.load(model, tmp_path / "w.pt")
    assert report.skipped == ("classifier.bias", "classifier.weight")
    state = {n: t for n, t in source.state_dict().items() if not n.startswith("classifier.")}
    assert report.tensors == len(state)
    assert differing(model, {**clone(model), **state}) == set()


def test_a_checkpoint_gives_its_moving_average_where_it_has_one(tmp_path: Path) -> None:
    """The run was scored by that."""
    own, average, found = (timm.create_model("test_resnet", num_classes=3) for _ in range(3))
    for kept, right in ((average.state_dict(), average), (None, own)):
        torch.save({"model": own.state_dict(), "ema": kept, "epoch": 3}, tmp_path / "latest.pt")
        weights.load(found, tmp_path / "latest.pt")
        for ours, expected in zip(found.parameters(), right.parameters(), strict=True):
            assert torch.equal(ours, expected)


def test_save_writes_two_equal_files_that_load(tmp_path: Path) -> None:
    source = twistnet18(1).to(memory_format=torch.channels_last)
    weights.save(source, tmp_path / "new" / "twistnet18_imagenet.pt")
    names = ["twistnet18_imagenet.pt", "twistnet18_imagenet.safetensors"]
    assert sorted(os.listdir(tmp_path / "new")) == names
    for name in names:
        model = twistnet18(2)
        assert weights.load(model, tmp_path / "new" / name).tensors == 206
        assert differing(model, clone(source)) == set()
    with pytest.raises(InputError, match=r"'\.bin'"):
        weights.save(source, tmp_path / "w.bin")


def test_find_prefers_the_working_directory_then_pt(workplace: Path) -> None:
    assert weights.find("twistnet18") is None
    here, there = workplace / "weights", weights.REPOSITORY / "weights"
    here.mkdir()
    there.mkdir(parents=True)
    # From the last choice to the first.
    for path in (
        there / "twistnet18_imagenet.safetensors",
        there / "twistnet18_imagenet.pt",
        here / "twistnet18_imagenet.safetensors",
        here / "twistnet18_imagenet.pt",
    ):
        path.touch()
        assert weights.find("twistnet18") == path
    assert weights.find("twistnet18_no_ais") is None
    assert weights.find("twistnet18", start=workplace.parent) == there / "twistnet18_imagenet.pt"


def test_auto_load_says_what_the_guide_says(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "weights").mkdir()
    torch.save(authors_layout(twistnet18(1)), workplace / "weights" / "twistnet18_imagenet.pt")
    weights.auto_load(twistnet18(2), "twistnet18")
    lines = [
        "[Auto-detected] Found TwistNet weights: weights/twistnet18_imagenet.pt",
        "[TwistNet Pretrained] Loaded 334 layers from weights/twistnet18_imagenet.pt",
        "334 tensors set 12,077,852 of 12,077,852 parameters (100.0 %)",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    weights.auto_load(twistnet18(2), "twistnet18", "weights/twistnet18_imagenet.pt")
    assert capsys.readouterr().out.splitlines() == lines[1:]
    model = twistnet18(2)
    before = clone(model)
    assert weights.auto_load(model, "twistnet18", "none") is None
    assert differing(model, before) == set()
    assert capsys.readouterr().out == ""


def test_auto_load_finds_other_models_by_their_name(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = timm.create_model("mobilenetv3_small_050")
    weights.save(source, workplace / "weights" / "mobilenetv3_small_050_imagenet.pt")
    model = timm.create_model("mobilenetv3_small_050")
    weights.auto_load(model, "mobilenetv3_small_050")
    assert differing(model, clone(source)) == set()
    out = capsys.readouterr().out
    assert "Found mobilenetv3_small_050 weights" in out
    assert "TwistNet" not in out


def test_resnet18_initialises_its_measured_share() -> None:
    resnet = timm.create_model("resnet18")
    model = twistnet18(2)
    before = clone(model)
    report = weights.copy_resnet18_stem(model, resnet.state_dict())
    changed = differing(model, before)
    assert {name.split(".")[0] for name in changed} == {"stem", "layer1", "layer2"}
    assert torch.equal(model.stem[0].weight, resnet.conv1.weight)
    assert torch.equal(model.layer2[0].downsample[1].running_var, resnet.layer2[0].downsample[1].running_var)
    assert report.parameters == 683_072
    assert round(100 * report.share, 1) == 5.7
    assert report.tensors == len(changed) == 6 + 24 + 30


def test_an_incomplete_resnet18_is_refused() -> None:
    state = timm.create_model("resnet18").state_dict()
    del state["layer2.1.bn2.bias"]
    model = twistnet18(2)
    before = clone(model)
    with pytest.raises(InputError, match=r"missing tensors layer2\.1\.bn2\.bias"):
        weights.copy_resnet18_stem(model, state)
    assert differing(model, before) == set()


def test_the_fallback_warns_with_the_measured_share(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache, which holds a resnet18 here, is asked before the network."""
    resnet = timm.create_model("resnet18")
    cached = workplace / "model.safetensors"
    safetensors.torch.save_file(resnet.state_dict(), cached)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(cached))
    messages: list[str] = []
    model = twistnet18(2)
    weights.auto_load(model, "twistnet18", announce=messages.append)
    assert "5.7 %" in messages[0]
    assert "not recommended" in messages[0]
    assert messages[1].splitlines()[0] == "[TwistNet Pretrained] Loaded 60 layers from timm's resnet18"
    assert torch.equal(model.layer1[0].conv1.weight, resnet.layer1[0].conv1.weight)

    other = timm.create_model("resnet18", num_classes=3)
    report = weights.auto_load(other, "resnet18", announce=messages.append)
    assert torch.equal(other.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)
    assert report is not None
    assert report.skipped == ("fc.bias", "fc.weight")


@pytest.mark.parametrize("name", ["twistnet18", "resnet18"])
def test_without_network_one_sentence_says_what_to_do(workplace: Path, name: str) -> None:
    assert not os.listdir(workplace)
    started = time.monotonic()
    with pytest.raises(InputError, match=rf"no weights/{name}_imagenet\.pt .*\(ConnectionError\).*`--weights none`"):
        weights.auto_load(timm.create_model(name), name)
    assert time.monotonic() - started < 10
