"""The guide's sweep, shared by two processes of which each is killed in turn, held to one that nobody disturbed.

What a sweep costs beside its training is measured on the undisturbed one, which a single process does.
"""

from __future__ import annotations

import math
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.options import check_positive
from bench.rows import added, append_rows, check_results, columns_after, columns_before
from bench.sweeping import Sweep, refuse_difference
from convert.photographs import make_miniature_dtd
from loaders import InputError
from twistnet import environment
from twistnet.reporting import counted
from twistnet.run_folder import RunFolder

PROCESSES = 2
_UNTIL = 0.7  # of the runs are done when the last kill comes, at the latest


def sweep(
    *,
    data_dir: Path | None = None,
    models: tuple[str, ...] = ("resnet18", "twistnet18"),
    folds: str = "1-10",
    seeds: tuple[int, ...] = (42, 43, 44),
    recipe: str = "demo_dtd",
    epochs: int = 3,
    size: int = 32,
    batch_size: int = 32,
    weights: str = "none",
    kills: int = 2,
    kill_seed: int | None = None,
) -> None:
    """Kills a shared sweep at random moments, holds it to an undisturbed one, and adds a row to sweep.csv.

    Args:
        data_dir: a data set in DTD's layout; a miniature of its 47 classes is cut from photographs unless given.
        models: as twistnet sweep takes them, like all that follow but the last two.
        folds: which of the ten.
        seeds: a run each.
        recipe: of all runs.
        epochs: of a run.
        size: side of the images in pixels.
        batch_size: images of a step.
        weights: what training begins from.
        kills: how many, of the two processes in turn.
        kill_seed: of the moments; a random one unless given.
    """
    check_positive(epochs=epochs, size=size, batch_size=batch_size, kills=kills)
    check_results("sweep")
    seed = random.SystemRandom().randrange(10**6) if kill_seed is None else kill_seed
    chosen = {"models": ",".join(models), "folds": folds, "seeds": ",".join(map(str, seeds)), "recipe": recipe}
    chosen |= {"epochs": str(epochs), "size": str(size), "batch_size": str(batch_size), "weights": weights}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        data = data_dir.resolve() if data_dir else make_miniature_dtd(root / "data" / "dtd")
        found = swept(data, root, chosen, kills=kills, seed=seed)
    about = environment.describe(torch.device("cpu"))
    options = {**chosen, "processes": PROCESSES, "asked": kills, "seed": seed, "data": data.name}
    path = append_rows("sweep", [columns_before(about) | found.row() | columns_after(about, options)])
    print(found)
    print(added(path))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What two sweeps of the same runs took, with the same results.

    Attributes:
        runs: of the sweep.
        kills: the moments, in seconds from the start of the shared sweep.
        resumed: runs that went on from a checkpoint.
        repeated: runs that were begun again, since the kill came before their first checkpoint.
        undisturbed_s: seconds of one process that nobody disturbed, from its command to its end.
        shared_s: of the two that shared the sweep.
        step_s: of `undisturbed_s`, in training steps and waiting for their batches.
        eval_s: of `undisturbed_s`, in validation and tests.
    """

    runs: int
    kills: list[float] = field(default_factory=list)
    resumed: int = 0
    repeated: int = 0
    undisturbed_s: float = 0.0
    shared_s: float = 0.0
    step_s: float = 0.0
    eval_s: float = 0.0

    @property
    def outside_steps(self) -> float:
        """Share of the undisturbed time in which no step was taken: validation and tests count as such."""
        return 1 - self.step_s / self.undisturbed_s

    @property
    def outside_work(self) -> float:
        """Share of it that was neither training, validation nor test: what a sweep wastes."""
        return 1 - (self.step_s + self.eval_s) / self.undisturbed_s

    @property
    def overhead_s(self) -> float:
        """The same in seconds a run, the start of the process included."""
        return self.outside_work * self.undisturbed_s / self.runs

    def row(self) -> dict[str, Any]:
        """The columns of its figures."""
        return {
            "n": self.runs,
            "kills": len(self.kills),
            "killed_at_s": " ".join(f"{moment:.1f}" for moment in self.kills),
            "resumed": self.resumed,
            "repeated": self.repeated,
            "undisturbed_s": round(self.undisturbed_s, 1),
            "shared_s": round(self.shared_s, 1),
            "outside_steps": round(self.outside_steps, 3),
            "outside_steps_and_evaluation": round(self.outside_work, 3),
            "overhead_s": round(self.overhead_s, 2),
        }

    def __str__(self) -> str:
        return (
            f"{self.runs} runs: {self.undisturbed_s:.0f} s by one process, {self.shared_s:.0f} s by {PROCESSES} with "
            f"{len(self.kills)} kills; {counted(self.resumed, 'run')} went on and {self.repeated} began again, to the "
            "same results, predictions and table. "
            f"Of the undisturbed time {self.outside_steps:.1%} lay outside training steps, {self.outside_work:.1%} "
            f"outside validation and tests too: {self.overhead_s:.2f} s a run."
        )


def swept(data: Path, root: Path, chosen: dict[str, str], *, kills: int, seed: int) -> Outcome:
    """Does the sweep once undisturbed and once by two processes that are killed in turn.

    Args:
        data: absolute path of a data set in DTD's layout.
        root: an absolute path: a folder for both.
        chosen: flags of `twistnet sweep` and their values.
        kills: how many.
        seed: of their moments.

    Raises:
        InputError: where the two differ, with the first difference; where a sweep fails or comes to no end, and where
            it ends before all kills have come.
    """
    whole, shared = (Sweep(data, root / "runs" / name, chosen) for name in ("undisturbed", "shared"))
    undisturbed_s = whole.finish([whole.start()])
    results = whole.results()
    found = Outcome(runs=len(results), undisturbed_s=undisturbed_s)
    found.step_s, found.eval_s = (
        math.fsum(result[name] for result in results.values()) for name in ("step_seconds", "eval_seconds")
    )
    rng, between = random.Random(seed), undisturbed_s / found.runs
    waits = [
        (int(found.runs * _UNTIL * (place + rng.random()) / kills), between * rng.random() / 2)
        for place in range(kills)
    ]
    found.shared_s = shared.finish([shared.start() for _ in range(PROCESSES)], waits, found.kills)
    if len(found.kills) < kills:
        raise InputError(f"the sweep ended before kill {len(found.kills) + 1} of --kill_seed {seed}: take another.")
    refuse_difference(whole, shared, f"with --kill_seed {seed}")
    for name in results:
        starts = [row["step"] for row in RunFolder(shared.folder / name).rows() if row["kind"] == "start"]
        found.resumed += any(starts)
        found.repeated += starts.count(0) > 1
    return found
