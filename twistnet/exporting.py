"""A run as a folder to share, which timm loads as it is.

model.safetensors   config.json   README.md, the model card   model.onnx, where it is asked for
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from launch.version import VERSION
from loaders import InputError
from loaders.errors import one_line
from loaders.files import new_folder, write_atomically
from twistnet.model_card import CARD, model_card
from twistnet.onnx_export import check_packages, write_onnx
from twistnet.trained import CONFIG, FORMAT, WEIGHTS, Run, Trained, is_export

ONNX = "model.onnx"
_FILES = (WEIGHTS, CONFIG, CARD, ONNX)
# timm resizes by Pillow, whose nearest to OpenCV's INTER_AREA is the box filter.
_TIMMS_NAMES = {"area": "box"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        trained: the model.
        onnx_difference: of the ONNX file's outputs from torch's; None where it was not written or not compared.
    """

    trained: Trained
    onnx_difference: float | None


def export(run: Run, out: Path, *, onnx: bool = False, license: str | None = None) -> Export:
    """Writes a run's model as a folder, whole or not at all, and loads it once as timm does, to the same bits.

    Args:
        run: what to export.
        out: the folder; an export that is there is replaced.
        onnx: whether to write an ONNX file too.
        license: of the model, for its card; the card says that none is stated otherwise.

    Raises:
        InputError: where `out` holds something else, or the model cannot be exported.
    """
    _refuse_to_overwrite(out)
    if license is not None and not license.strip():
        raise InputError("--license is empty: name one, as mit or cc-by-4.0, or leave it out.")
    if onnx:
        check_packages()
    trained = run.trained(torch.device("cpu"))
    model = trained.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    difference = None
    with new_folder(out) as folder:
        # Copies, because safetensors refuses tensors that share memory.
        state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
        weights = safetensors.torch.save(state, metadata={"format": "pt"})
        write_atomically(folder / WEIGHTS, lambda file: file.write(weights))
        _write_text(folder / CONFIG, json.dumps(config_of(trained), indent=2, allow_nan=False) + "\n")
        _check(model, folder, trained)
        if onnx:
            difference = write_onnx(model, trained.preparation.size, folder / ONNX)
        _write_text(
            folder / CARD,
            model_card(
                run, trained, name=out.name, license=license, onnx=ONNX if onnx else None, difference=difference
            ),
        )
    return Export(trained=trained, onnx_difference=difference)


def config_of(trained: Trained) -> dict[str, Any]:
    """config.json as timm reads it, with what it has no names for under "twistnet"."""
    shown, model = trained.preparation, trained.model
    made: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    same_size = list(made.get("input_size", ()))[1:] == [shown.size, shown.size]
    cfg = {
        "input_size": [3, shown.size, shown.size],
        "fixed_input_size": bool(made.get("fixed_input_size", False)),
        "pool_size": list(made["pool_size"]) if same_size and made.get("pool_size") else None,
        "interpolation": _TIMMS_NAMES.get(shown.interpolation, shown.interpolation),
        "crop_pct": float(shown.crop_pct),
        "crop_mode": "center",
        "mean": list(shown.mean),
        "std": list(shown.std),
        "num_classes": len(trained.classes),
        "first_conv": made.get("first_conv"),
        "classifier": made.get("classifier"),
        "custom_load": False,
    }
    return {
        "architecture": trained.architecture,
        "num_classes": len(trained.classes),
        "num_features": getattr(model, "num_features", None),
        "label_names": list(trained.classes),
        "pretrained_cfg": cfg,
        "twistnet": {
            "format": FORMAT,
            "version": VERSION,
            "interpolation": shown.interpolation,
            "flip_tta": shown.flip_tta,
            "amp": shown.amp,
            "decoder": shown.decoder,
        },
    }


def _refuse_to_overwrite(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder.")
    held = sorted(path.name for path in out.iterdir())
    if held and not is_export(out):
        raise InputError(f"--out {out} is there already and no export: name another folder.")
    others = [name for name in held if name not in _FILES]
    if others:
        raise InputError(f"--out {out} holds {others[0]} beside an export, which would be lost: name another folder.")


@torch.no_grad()
def _check(model: nn.Module, folder: Path, trained: Trained) -> None:
    """Raises InputError unless timm makes the same model of the folder, to the last bit."""
    try:
        found = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # each of a thousand models refuses in its own way
        raise InputError(
            f"timm cannot load {trained.architecture} from an export ({one_line(error, 160)}): keep to weights files."
        ) from error
    mine, theirs = model.state_dict(), found.state_dict()
    same = mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    size = trained.preparation.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    if not same or not torch.equal(model(images), found(images)):
        raise InputError(f"{trained.architecture} is another model when timm loads it: keep to weights files.")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
