"""ONNX files: named, of any batch, and held to torch's outputs before anybody gets them."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import timm
import torch

from loaders import InputError
from twistnet import onnx_export
from twistnet.__main__ import main
from twistnet.onnx_export import write_onnx

pytest_plugins = ("training", "exports")


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


def test_the_file_says_what_it_takes_and_gives_what_torch_gives(model: torch.nn.Module, tmp_path: Path) -> None:
    difference = write_onnx(model, 32, tmp_path / "model.onnx")
    assert difference is not None
    assert difference <= 1e-4
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written)
    assert [entry.version for entry in written.opset_import if entry.domain == ""] == [18]
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    ((given,), (gives,)) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], gives.name, gives.shape[1:]) == ("images", [3, 32, 32], "logits", [3])
    assert isinstance(given.shape[0], str)  # any number
    for count in (1, 4, 7):
        images = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            right = model(images)
        torch.testing.assert_close(
            torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), right, rtol=0, atol=1e-4
        )


def test_outputs_that_differ_are_refused(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = timm.create_model("test_resnet", num_classes=3).eval()
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda _, *rest, **options: real(other, *rest, **options))
    with pytest.raises(InputError, match=r"outputs differ from torch's by .*, more than 0\.0001: leave --onnx out"):
        write_onnx(model, 32, tmp_path / "model.onnx")


def test_without_onnxruntime_nothing_is_claimed(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", f"--run_dir={tuned}", f"--out={tmp_path / 'out'}", "--onnx"]) == 0
    assert "model.onnx is not compared with torch: pip install onnxruntime" in capsys.readouterr().out
    assert "for want of onnxruntime" in (tmp_path / "out" / "README.md").read_text()


def test_what_the_exporter_lacks_or_cannot_do_is_told_in_a_sentence(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(InputError, match="Odd cannot be exported to ONNX"):
        write_onnx(Odd(), 32, tmp_path / "odd.onnx")
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export", f"--run_dir={tuned}", f"--out={tmp_path / 'out'}", "--onnx"]) == 1
    assert "ONNX files need onnxscript: pip install 'twistnet[export]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
