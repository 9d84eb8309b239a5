"""curves.png: what a person looks at first in a run folder."""

from __future__ import annotations

import importlib.util

from loaders.files import write_atomically
from twistnet.run_folder import RunFolder


def draw_curves(folder: RunFolder) -> None:
    """Draws loss, accuracy, learning rate and speed by epoch from the run's log; nothing without matplotlib.

    Where matplotlib is missing, `twistnet doctor` says so and names the extra that brings it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    rows = folder.rows()
    steps = [row for row in rows if row["kind"] == "steps" and "loss" in row]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    if not epochs:
        return
    per_epoch = epochs[-1]["step"] / epochs[-1]["epoch"]
    at, ends = [row["step"] / per_epoch for row in steps], [row["epoch"] for row in epochs]
    # Margins by number: a layout that finds them draws everything once more to do so.
    figure = Figure(figsize=(11, 7))
    figure.subplots_adjust(left=0.085, right=0.94, bottom=0.075, top=0.955, wspace=0.26, hspace=0.3)
    loss, accuracy, lr, speed = figure.subplots(2, 2).ravel()
    loss.plot(at, [row["loss"] for row in steps], linewidth=0.8, label="training")
    loss.plot(ends, [row["val_loss"] for row in epochs], marker=".", label="validation")
    # A first epoch may validate far off, with statistics that have not settled yet, and would flatten all the rest.
    highest = 1.3 * max(row["loss"] for row in (*steps, *epochs))
    loss.set(title="Loss (training: with the recipe's mixing and smoothing)", ylabel="cross-entropy", ylim=(0, highest))
    accuracy.plot(ends, [100 * row["top1"] for row in epochs], linewidth=0.8, label="training top-1")
    accuracy.plot(ends, [100 * row["val_top1"] for row in epochs], marker=".", label="validation top-1")
    accuracy.plot(ends, [100 * row["val_top5"] for row in epochs], marker=".", label="validation top-5")
    accuracy.set(title="Accuracy", ylabel="%", ylim=(0, 100))
    lr.plot(at, [row["lr"] for row in steps])
    lr.set(title="Learning rate", ylabel="learning rate", ylim=(0, None))
    speed.plot(ends, [row["images_per_s"] for row in epochs], marker=".", label="images/s")
    speed.set(title="Speed", ylabel="images/s", ylim=(0, None))
    waiting = speed.twinx()
    share = [100 * row["wait_s"] / max(row["seconds"], 1e-9) for row in epochs]
    waiting.plot(ends, share, marker=".", color="tab:red", label="waiting for data")
    waiting.set(ylabel="% of the time", ylim=(0, 100))
    for axes in (loss, accuracy, lr, speed):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.set_title(axes.get_title(), y=1.0)  # by number too
    loss.legend()
    accuracy.legend()
    handles = [*speed.get_legend_handles_labels()[0], *waiting.get_legend_handles_labels()[0]]
    speed.legend(handles=handles)
    write_atomically(folder.path / "curves.png", lambda file: figure.savefig(file, format="png", dpi=110))
