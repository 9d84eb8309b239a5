"""What a trained model says of images that are no data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from loaders import InputError
from loaders.augment import Augment, AugmentDraws
from loaders.choosing import choose_decoder, make_decoder, same_pixels
from loaders.cores import usable_cores
from loaders.listed import decoded
from twistnet.precision import Precision, use_fast_kernels
from twistnet.trained import Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What became of some images.

    Attributes:
        files: n that were decoded.
        probabilities: (n, classes) float32, of those.
        failures: what is wrong with the others of the group.
    """

    files: tuple[Path, ...]
    probabilities: npt.NDArray[np.float32]
    failures: dict[Path, str]


def predict(
    trained: Trained,
    files: Sequence[Path],
    device: torch.device,
    *,
    batch_size: int = 64,
    say: Callable[[str], object] = print,
) -> Iterator[Predicted]:
    """Shows every image to the model as the run's evaluation did: pixels, precision, mirror images.

    Args:
        trained: the model, on `device`.
        files: the images.
        device: where to compute.
        batch_size: images at a time.
        say: told where other pixels than the run's are made, as where its decoder is not installed.

    Raises:
        InputError: for a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size} is too small: take at least 1.")
    shown = trained.preparation
    choice = choose_decoder("auto", shown.interpolation, torch.device("cpu"))
    if shown.decoder != "auto" and not same_pixels(choice.name, shown.decoder, shown.interpolation):
        say(f"[Warning] The run was evaluated on {shown.decoder}'s pixels, {choice.name} makes slightly other ones.")
    use_fast_kernels(device)
    precision = Precision.choose(device, shown.amp)
    augment = Augment(mean=shown.mean, std=shown.std, dtype=precision.dtype)
    decoder = make_decoder(choice.name, shown.interpolation, usable_cores())
    try:
        with decoded(files, decoder, shown.crops(), shown.size, batch_size) as groups:
            for group in groups:
                yield Predicted(
                    files=tuple(files[place] for place in group.places),
                    probabilities=_probabilities(trained, group.pixels, augment, precision, device),
                    failures={files[place]: reason for place, reason in sorted(group.failures.items())},
                )
    finally:
        decoder.close()


@torch.no_grad()
def _probabilities(
    trained: Trained, pixels: npt.NDArray[np.uint8], augment: Augment, precision: Precision, device: torch.device
) -> npt.NDArray[np.float32]:
    if not len(pixels):
        return np.zeros((0, len(trained.classes)), dtype=np.float32)
    images = augment(torch.from_numpy(pixels).to(device), AugmentDraws())
    try:
        with precision.autocast():
            logits = trained.model(images)
            if trained.preparation.flip_tta:
                logits = (logits + trained.model(images.flip(3))) / 2
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{len(pixels)} images of {trained.preparation.size} pixels do not fit into memory: lower --batch_size."
        ) from error
    found: npt.NDArray[np.float32] = logits.float().softmax(dim=1).cpu().numpy()
    return found
