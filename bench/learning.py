"""Whether models learn, and how well: the same recipe from random weights, on photographs, over several seeds."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Literal

from bench.learning_set import make_learning_set, photographs_in
from bench.options import check_positive
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from twistnet import distributed, environment
from twistnet.building import check_model
from twistnet.job import Job
from twistnet.recipes import named
from twistnet.train import train


def learning(
    *,
    photographs: Path,
    models: tuple[str, ...] = ("twistnet18", "resnet18"),
    seeds: tuple[int, ...] = (0, 1, 2),
    recipe: str = "demo",
    epochs: int = 10,
    size: int = 64,
    per_class: int = 150,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Trains models from random weights on crops of photographs, and adds rows to bench/results/learning.csv.

    Args:
        photographs: a folder with JPEGs of 900 pixels or more, each of which becomes a class.
        models: names that timm knows.
        seeds: of initialisation, order and augmentation; each is a run of every model.
        recipe: the same for all.
        epochs: of each run.
        size: side of the images in pixels.
        per_class: images of a class, a fifth of them for validation.
        workers: decoding threads; the usable cores unless given.
        device: where to train; auto takes a CUDA card where there is one.
    """
    check_positive(epochs=epochs, size=size, per_class=per_class, workers=workers)
    check_results("learning")
    for model in models:
        check_model(model)
    found = photographs_in(photographs)
    val, images = max(per_class // 5, 1), len(found) * per_class
    options = {"recipe": recipe, "epochs": epochs, "size": size, "classes": len(found), "images": images}
    scores: dict[str, list[float]] = {model: [] for model in models}
    with tempfile.TemporaryDirectory() as folder, distributed.join(device) as world:
        tree = make_learning_set(found, Path(folder) / "set", train=per_class - val, val=val)
        about = environment.describe(world.device)
        for seed in seeds:
            for model in models:
                settled = named(recipe).with_changes(model=model, epochs=epochs, size=size, eval_size=size, seed=seed)
                job = Job(data_dir=tree, run_dir=Path(folder) / f"{model}-{seed}", weights_name="w.pt", workers=workers)
                outcome = train(job, settled, world)
                scores[model].append(outcome.last.top1)
                row = {
                    "model": model,
                    "seed": seed,
                    "val_top1": round(outcome.last.top1, 4),
                    "val_loss": round(outcome.last.loss, 4),
                    "val_samples": outcome.last.samples,
                }
                path = append_rows("learning", [columns_before(about) | row | columns_after(about, options)])
    print(f"{len(found)} classes, {images:,} images, {epochs} epochs at {size} px:")
    for model, each in scores.items():
        spread = statistics.stdev(each) if len(each) > 1 else 0.0
        print(f"{model}: {statistics.mean(each):.2%} (std {spread:.2%}, n={len(each)})")
    print(added(path))
