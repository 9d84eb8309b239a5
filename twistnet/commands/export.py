"""`twistnet export`: a run's model as a folder that timm loads."""

from __future__ import annotations

from pathlib import Path

from twistnet.exporting import ONNX
from twistnet.exporting import export as write
from twistnet.trained import CheckpointName, read_run


def export(
    *,
    run_dir: Path,
    out: Path = Path("exported"),
    checkpoint: CheckpointName = "best",
    onnx: bool = False,
    license: str | None = None,
) -> None:
    """Writes a run's model to share: model.safetensors, config.json and a model card, which the run fills.

    timm.create_model("local-dir:exported", pretrained=True) loads it, after import twistnet where it is a TwistNet.

    Args:
        run_dir: the folder of a run of pretrain or finetune.
        out: the folder to write, whole or not at all; an export that is there is replaced.
        checkpoint: whose weights: best, by validation accuracy, or latest; a linear probe has one set alone.
        onnx: also write model.onnx, and hold its outputs to torch's where onnxruntime is installed.
        license: of the model, for its card, as mit or cc-by-4.0.
    """
    run = read_run(run_dir, checkpoint)
    if run.unfinished:
        print(f"[Warning] {run_dir} is {run.unfinished}: the card says so.")
    made = write(run, out, onnx=onnx, license=license)
    trained = made.trained
    print(f"{out}: {trained.architecture}, {len(trained.classes)} classes, from {run.checkpoint}; timm loads it alike.")
    if onnx and made.onnx_difference is None:
        print(f"{out / ONNX} is not compared with torch: pip install onnxruntime, and export again.")
    elif onnx:
        print(f"{out / ONNX} gives torch's outputs, within {made.onnx_difference:.1e}.")
    print(f"Read {out / 'README.md'} before you share it; twistnet predict IMAGE --model_dir {out} tries it.")
