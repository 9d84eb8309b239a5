"""`python -m bench finetuning`: images a second into fine-tuning on a small set, beside the usual loop over it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from bench.data import leave_cache, tree_of
from bench.loaders import System, described, loader_rates
from bench.options import check_positive
from bench.rows import added, append_rates, check_results
from loaders import InputError
from loaders.cores import usable_cores

CPU = torch.device("cpu")
RANDAUGMENT = "randaugment-n2-m9"


def _systems(policy: str) -> Mapping[str, System]:
    def ours(keeps: str) -> System:
        return System(name="ours:finetuning", options={"policy": policy, "keeps": keeps})

    return {
        "kept, later epochs": ours("later"),
        "kept, first epoch": ours("first"),
        "decoded each time": ours("none"),
        "Pillow, torchvision, DataLoader": System(
            name="finetuning_loader", options={"augmented": policy == RANDAUGMENT}
        ),
    }


# By what follows crop and flip; the last is what the ratios are to.
SYSTEMS = {"RandAugment": _systems(RANDAUGMENT), "crop and flip": _systems("none")}


def finetuning(
    *,
    data_dir: Path | None = None,
    batch_size: int = 64,
    size: int = 224,
    rounds: int = 5,
    seconds: float = 3.0,
    images: int = 1880,
    workers: int | None = None,
) -> None:
    """Measures loading for fine-tuning by recipe dtd, and adds rows to bench/results/finetuning.csv.

    Beside ours, each in a process of its own: a data set over DTD's list, Pillow, torchvision's transforms and torch's
    DataLoader. A first epoch opens the loader, decodes every image and keeps it; later ones resize what is kept.

    Args:
        data_dir: DTD's folder, whose list train1 is read; unless given, photographs that packages ship in its layout.
        batch_size: images of a batch.
        size: side of the images in pixels.
        rounds: interleaved rounds.
        seconds: of each loader in one round, at least; a round has whole epochs.
        images: to make, without --data_dir; DTD's lists have 1,880.
        workers: threads or processes of each loader; the usable cores unless given.
    """
    check_positive(batch_size=batch_size, size=size, rounds=rounds, seconds=seconds, images=images, workers=workers)
    check_results("finetuning")
    workers = usable_cores() if workers is None else workers
    with _dtd_of(data_dir, images) as (folder, name):
        spec = {"path": str(folder), "batch_size": batch_size, "size": size, "workers": workers, "seconds": seconds}
        for follows, systems in SYSTEMS.items():
            leave_cache(folder)
            rates = loader_rates(systems, spec, rounds, 0)
            options = {"set": follows, "data": name, "batch": batch_size, "size": size, "workers": workers}
            file = append_rates("finetuning", rates, options, CPU)
            reference = list(rates.values())[-1]
            for system, rate in rates.items():
                print(f"{follows} of {name}: {system}: {described(rate, reference)}")
    print(added(file))


@contextlib.contextmanager
def _dtd_of(data_dir: Path | None, images: int) -> Iterator[tuple[Path, str]]:
    """A folder in DTD's layout, and what rows call its images."""
    if data_dir is not None:
        listing = data_dir / "labels" / "train1.txt"
        if not listing.is_file():
            raise InputError(f"{data_dir} is no DTD folder, it has no {listing}: name one, or leave --data_dir out.")
        yield data_dir, data_dir.name
        return
    with tree_of(None, images) as (tree, root):
        folder = root / "dtd"
        (folder / "labels").mkdir(parents=True)
        (folder / "images").symlink_to(tree / "train")
        names = sorted(file.relative_to(tree / "train").as_posix() for file in (tree / "train").glob("*/*"))
        (folder / "labels" / "train1.txt").write_text("\n".join(names))
        yield folder, tree.name
