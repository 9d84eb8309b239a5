"""Folders of runs as fine-tuning leaves them, made without training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twistnet.checkpoints import FORMAT, KEYS
from twistnet.recipes import named


def write_run(folder: Path, *, top1: float = 0.5, changes: dict[str, Any] | None = None, **result: Any) -> Path:
    """A finished run: recipe.json and result.json.

    Args:
        folder: the run's.
        top1: test accuracy, from which the others are made.
        changes: of its recipe.
        result: other values of result.json.
    """
    folder.mkdir(parents=True)
    values = {
        **{"model": "resnet18", "dataset": "dtd", "fold": 1, "seed": 42, "recipe": "dtd", "tune": "all", "epochs": 100},
        **{"val_top1": top1, "best_epoch": 1, "test_top1": top1, "test_top5": (1 + top1) / 2, "test_balanced": top1},
        **{
            "test_samples": 1880,
            "train_samples": 1880,
            "num_classes": 47,
            "weights": "weights/a.pt",
            "weights_sha256": "aa",
        },
        **{"images_per_s": 1000.0, "seconds": 60.0, "step_seconds": 55.0, "eval_seconds": 4.0},
        "parameters": 11_200_000,
        **result,
    }
    values.setdefault("test_fingerprint", f"{values['dataset']}-{values['num_classes']}-{values['fold']}")
    recipe = named(values["recipe"]).with_changes(
        model=values["model"], epochs=values["epochs"], seed=values["seed"], **(changes or {})
    )
    (folder / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    (folder / "result.json").write_text(json.dumps(values))
    return folder


def write_sweep(folder: Path, accuracies: dict[str, dict[tuple[int, int], float]], **result: Any) -> Path:
    """A sweep's folder, of accuracies by model and (fold, seed)."""
    for model, by_pair in accuracies.items():
        for (fold, seed), top1 in by_pair.items():
            run = folder / model / f"fold{fold:02d}-seed{seed}"
            write_run(run, top1=top1, **{"model": model, "fold": fold, "seed": seed, **result})
    (folder / "sweep.json").write_text("{}")
    return folder


def write_log(run: Path, val_top1: list[float], gates: dict[str, list[float]] | None = None) -> None:
    """The log of a run by epochs, with the gates of its twist blocks where there are any."""
    rows = []
    for place, top1 in enumerate(val_top1):
        row: dict[str, Any] = {"kind": "epoch", "epoch": place + 1, "step": 30 * (place + 1), "val_top1": top1}
        if gates:
            row["gates"] = {block: values[place] for block, values in gates.items()}
        rows.append(row)
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_predictions(run: Path, labels: list[int], predicted: list[int], classes: list[str]) -> None:
    """The predictions of a run."""
    probabilities = np.eye(len(classes), dtype=np.float16)[predicted]
    np.savez(
        run / "predictions.npz",
        ids=np.arange(len(labels)),
        labels=np.array(labels, np.int64),
        predicted=np.array(predicted, np.int64),
        probabilities=probabilities,
        classes=np.array(classes),
    )


def write_checkpoint(path: Path, *, samples: int, **values: Any) -> None:
    """A checkpoint as a run writes it, with these values and nothing learned."""
    data = {"train_split": "train1", "val_split": "val1", "fingerprint": "a", "val_fingerprint": "b"}
    state = {
        **dict.fromkeys(KEYS),
        **{"format": FORMAT, "model": {}, "buffers": torch.zeros(1, 2), "scaler": {}, "dtype": "torch.float32"},
        **{"optimiser": {"state": {}, "param_groups": []}, "recipe": {}, "epoch": 1, "step_in_epoch": 0},
        **{
            "best_top1": 0.5,
            "best_epoch": 1,
            "meter": {"epoch_sums": [0.0] * 4, "images": 0.0, "seconds": 0.0, "run_s": 0.0},
        },
        "data": data | {"classes": ["cat"], "samples": samples, "total_batch": 1},
    }
    torch.save({**state, **values}, path)


def rising(last: float, epochs: int) -> list[float]:
    """Accuracies that come near the last one as those of training do."""
    return [last * (1 - math.exp(-4 * (epoch + 1) / epochs)) for epoch in range(epochs)]
