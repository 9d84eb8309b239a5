"""A model as an ONNX file, which is held to torch's own outputs where onnxruntime is installed."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from loaders import InputError

OPSET = 18  # the exporter's own: it translates to others
INPUT, OUTPUT = "images", "logits"
TOLERANCE = 1e-4
_BATCHES = (1, 3)  # none of them the one that the model is exported with


def check_packages() -> None:
    """Raises InputError where the packages of the exporter are missing."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"ONNX files need {' and '.join(missing)}: pip install 'twistnet[export]', or leave --onnx out."
        )


@torch.no_grad()
def write_onnx(model: nn.Module, size: int, path: Path) -> float | None:
    """Writes the model for any number of images, and compares.

    Args:
        model: for evaluation, on the CPU, in float32.
        size: side of the images in pixels.
        path: of the file; it holds the weights too.

    Returns:
        The largest difference from torch's logits by onnxruntime on the CPU, relative to the largest logit where that
        is above 1; None where onnxruntime is not installed.

    Raises:
        InputError: where packages are missing, the model cannot be exported, or the outputs differ by more than
            `TOLERANCE`.
    """
    check_packages()
    example = (torch.zeros(2, 3, size, size),)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            torch.onnx.export(
                model,
                example,
                path,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # what the exporter cannot translate, it says in many ways
        raise InputError(
            f"{type(model).__name__} cannot be exported to ONNX ({type(error).__name__}): leave --onnx out."
        ) from error
    finally:
        logger.setLevel(level)
    return _difference(model, size, path)


def _difference(model: nn.Module, size: int, path: Path) -> float | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for count in _BATCHES:
        images = torch.randn(count, 3, size, size, generator=generator)
        (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
        right = model(images)
        difference = (torch.from_numpy(found) - right).abs().max() / right.abs().max().clamp_min(1)
        largest = max(largest, float(difference))
    if not largest <= TOLERANCE:
        raise InputError(
            f"the ONNX file's outputs differ from torch's by {largest:.1e}, more than {TOLERANCE:g}: leave --onnx out."
        )
    return largest
