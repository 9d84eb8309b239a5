"""`twistnet predict`: the most probable classes of images."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from tqdm import tqdm

from loaders import InputError
from loaders.files import write_atomically
from loaders.listed import find_images
from twistnet.arguments import shown
from twistnet.distributed import choose_device
from twistnet.predicting import Predicted
from twistnet.predicting import predict as show_to
from twistnet.progress import Progress
from twistnet.trained import CheckpointName, Trained, read_export, read_run

_BEGINS = b"image,class_1,probability_1"  # a file of predictions

Row: TypeAlias = tuple[Path, list[tuple[str, float]]]  # of an image: its most probable classes


def predict(
    images: tuple[Path, ...],
    *,
    model_dir: Path | None = None,
    run_dir: Path | None = None,
    checkpoint: CheckpointName = "best",
    top: int = 5,
    batch_size: int = 64,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    csv: Path | None = None,
) -> int:
    """Names the most probable classes of images, prepared as where the model was evaluated.

    An image that cannot be decoded is named and left out, and the exit code is 1 then.

    Args:
        images: files, and folders that are searched at any depth.
        model_dir: a folder of twistnet export; or else
        run_dir: the folder of a run.
        checkpoint: of the run: best, by validation accuracy, or latest.
        top: how many classes to name.
        batch_size: images at a time.
        device: where to compute; auto takes a CUDA card where there is one.
        csv: file to write a row an image to, instead of printing; one of before is replaced.
    """
    if (model_dir is None) == (run_dir is None):
        raise InputError("the model is missing or given twice: name --model_dir, an export, or --run_dir, a run.")
    if top < 1:
        raise InputError(f"--top {top} is too small: take at least 1.")
    if csv is not None and not csv.absolute().parent.is_dir():
        raise InputError(f"--csv {csv} is in a folder that does not exist: make it, or name another file.")
    if csv is not None and not _is_ours(csv):
        raise InputError(
            f"--csv {csv} is there already and no file of predictions, which alone is replaced: name another."
        )
    files = find_images(images)
    where = choose_device(device, 0)
    trained = _model(model_dir, run_dir, checkpoint, where)
    progress = Progress(total=len(files), done=0, shown=True)
    progress.describe("predict")
    top = min(top, len(trained.classes))
    kept: list[Row] = []
    bad = 0
    try:
        for group in show_to(trained, files, where, batch_size=batch_size, say=_tell):
            for row in _rows(group, trained.classes, top):
                if csv is None:
                    progress.say(_lines(*row))
                else:
                    kept.append(row)
            for path, reason in group.failures.items():
                _tell(f"{shown(str(path))} cannot be decoded ({reason}): left out.")
            bad += len(group.failures)
            progress.advance(len(group.files) + len(group.failures))
            progress.note(f"{bad} left out")
    finally:
        progress.close()
    if csv is not None:
        text = _csv(kept, top)
        write_atomically(csv, lambda file: file.write(text.encode(errors="surrogateescape")))
        print(f"{csv}: {_images(len(kept))}.")
    if bad:
        _tell(f"{bad:,} of {_images(len(files))} {'was' if bad == 1 else 'were'} left out.")
    return 1 if bad else 0


def _is_ours(path: Path) -> bool:
    """Whether nothing of somebody else's is lost with the file: it is not there, empty, or of this command."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begins = file.read(len(_BEGINS))
    return begins in (b"", _BEGINS)


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above the bar


def _rows(group: Predicted, classes: Sequence[str], top: int) -> Iterator[Row]:
    values, places = torch.from_numpy(group.probabilities).topk(top)
    for path, probabilities, labels in zip(group.files, values.tolist(), places.tolist(), strict=True):
        yield path, [(classes[label], value) for label, value in zip(labels, probabilities, strict=True)]


def _lines(path: Path, found: Sequence[tuple[str, float]]) -> str:
    width = max(len(shown(name)) for name, _ in found)
    return "\n".join((shown(str(path)), *(f"  {shown(name):<{width}}  {value:.4f}" for name, value in found)))


def _csv(rows: Sequence[Row], top: int) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability"))
    writer.writerow(["image", *columns])
    for path, found in rows:
        writer.writerow([str(path), *(item for name, value in found for item in (name, f"{value:.6f}"))])
    return text.getvalue()


def _model(model_dir: Path | None, run_dir: Path | None, checkpoint: CheckpointName, device: torch.device) -> Trained:
    if model_dir is not None:
        return read_export(model_dir, device)
    assert run_dir is not None
    return read_run(run_dir, checkpoint).trained(device)
