"""The usual loop of fine-tuning on a small set: a list of files, Pillow, torchvision and a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from bench.peers.torchvision_loader import MEAN, STD, epochs

SCALE = (0.2, 1.0)  # of recipe dtd


class Listed(Dataset[tuple[Tensor, int]]):
    """The images of one of DTD's lists, by their lines.

    Args:
        root: the folder with images/ and labels/.
        split: name of the list.
        transform: of an image in RGB.
    """

    def __init__(self, root: Path, split: str, transform: Callable[[Image.Image], Tensor]) -> None:
        lines = (root / "labels" / f"{split}.txt").read_text().split()
        classes = sorted({line.split("/")[0] for line in lines})
        self._samples = [(root / "images" / line, classes.index(line.split("/")[0])) for line in lines]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._samples[index]
        with Image.open(path) as image:
            return self._transform(image.convert("RGB")), label


def batches(path: Path, *, batch_size: int, size: int, workers: int, augmented: bool) -> Iterator[Iterator[int]]:
    """One epoch over the list train1 after another, as numbers of images, normalised float32.

    Args:
        path: a folder in DTD's layout.
        batch_size: images of a batch.
        size: side of the images in pixels.
        workers: processes, which stay from epoch to epoch.
        augmented: whether RandAugment follows the flip, two operations of magnitude 9 of 31.
    """
    steps = [
        transforms.RandomResizedCrop(size, scale=SCALE),
        transforms.RandomHorizontalFlip(),
        *([transforms.RandAugment(num_ops=2, magnitude=9)] if augmented else []),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return epochs(Listed(path, "train1", transforms.Compose(steps)), batch_size, workers)
