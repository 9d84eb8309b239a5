"""`twistnet sweep`: the guide's run_all.py."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.ranks import Ranks
from loaders import InputError, open_store
from loaders.kept import kept_pixels
from loaders.layouts import LAYOUTS
from twistnet import distributed, recipes
from twistnet import weights as weights_files
from twistnet.arguments import Url
from twistnet.building import check_model, make_model, open_split, refuse_larger_batch
from twistnet.commands.finetune import finetune
from twistnet.datasets import check_dataset, check_fold
from twistnet.distributed import World, watched
from twistnet.finetuning import finetune_fold
from twistnet.fitting import fit_batch
from twistnet.job import Job
from twistnet.recipe import Recipe
from twistnet.resuming import AUTO
from twistnet.sharing import with_flags_of
from twistnet.starting import settings, start
from twistnet.sweeping import table
from twistnet.sweeping.plan import SWEEP, Plan, Run, read, refuse_another, settle, weights_of
from twistnet.sweeping.running import Sweep
from twistnet.sweeping.states import States, seconds_left

_DEFAULT_RECIPE = "dtd"
_LEAST_STALE_MINUTES = 0.5
_VARIANTS = 8  # of a function that a model may need, by sizes and shapes: torch's own limit for all of them
# What a sweep gives each run itself, and what makes no sense for many.
_OF_ONE_RUN = ("model", "fold", "seed", "run_dir", "resume", "weights", "profile", "force")


@with_flags_of(finetune, but=_OF_ONE_RUN)
def sweep(
    *,
    models: tuple[str, ...],
    folds: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (42, 43, 44),
    run_dir: Path = Path("runs/main"),
    weights: tuple[str, ...] = ("auto",),
    dry_run: bool = False,
    wait: bool = True,
    stale_minutes: float = 10.0,
    **shared: Any,
) -> int:
    """Fine-tunes models on all folds with several seeds, one run after the other, and says what came of it.

    Runs that are done are skipped and broken ones go on. The same command, started again or at the same time on other
    cards and machines, shares the work: CUDA_VISIBLE_DEVICES=1 twistnet sweep ... takes a second card, and

        sbatch --array=0-7 --gpus=1 --wrap "twistnet sweep --models resnet18,twistnet18 ... --no_wait"

    eight, as each run is claimed by a file in its folder. A run that fails is told at the end, with exit code 1, and
    tried again when the sweep is started again.

    Args:
        models: models that timm knows, with commas.
        folds: which of the data set's splits, as 1-10 or 1,3,5-7; all of them unless given.
        seeds: of initialisation, order and augmentation, a run each.
        run_dir: the sweep's folder, with a folder for every run.
        weights: auto, none or a file for all models, or MODEL=FILE,MODEL=none for some; auto looks in weights/.
        dry_run: list what is done, broken, claimed and to come, with the time it takes, and do nothing.
        wait: stay until the runs of other processes have ended, and take over what they leave.
        stale_minutes: after which a run on another machine that shows no sign of life is taken over.
    """
    ranks = Ranks.from_env()
    if ranks.world_size > 1:
        raise InputError(
            f"a sweep runs in one process, not in {ranks.world_size}: start it without torchrun, once for each card, "
            "with CUDA_VISIBLE_DEVICES."
        )
    if stale_minutes < _LEAST_STALE_MINUTES:
        raise InputError(f"--stale_minutes {stale_minutes:g} is too short: take at least {_LEAST_STALE_MINUTES:g}.")
    dataset = shared["dataset"]
    folds = folds or tuple(range(1, LAYOUTS[dataset].folds + 1))
    for fold in folds:
        check_fold(dataset, fold, "--folds")
    check_dataset(dataset, shared["data_dir"])
    for model in models:
        check_model(model)
    plan = Plan(run_dir=run_dir, models=models, folds=folds, seeds=seeds, weights=weights_of(models, weights))
    asked = _Asked.of(plan, shared)
    if dry_run:
        _list(plan, asked, 60 * stale_minutes)
        return 0
    with distributed.join(shared["device"]) as world:
        _check(plan, asked, world)
        settle(run_dir, asked.to_dict(plan), 60 * stale_minutes)
        _compile_once_a_model(plan, asked, world)
        sweeping = Sweep(
            plan,
            asked.recipe(plan.runs[0]).epochs,
            lambda run: _execute(run, asked, world, ranks),
            stale_s=60 * stale_minutes,
            wait=wait,
            stream=sys.stdout,
        )
        gc.collect()
        gc.freeze()  # what is imported need not be looked through after every run
        try:
            states = sweeping.run()
        finally:
            gc.unfreeze()
    print("\n".join(["", *table.summary(plan, states)]))
    failed = table.failures(states)
    if failed:
        print("\n".join(["", *failed]))
    unfinished = any(state.kind in ("running", "broken", "waiting") for state in states.values())
    print(
        f"\n{table.counts(states)}. "
        + (f"Start the same command again for those that failed; their error.txt is in {run_dir}. " if failed else "")
        + ("Other processes still work at it. " if unfinished else "")
        + f"Tests and figures: twistnet report {run_dir}."
    )
    return 1 if failed else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the flags that finetune has too ask of every run.

    Attributes:
        data_dir: absolute, or a URL.
        dataset: whose layout it has.
        recipe_name: as given.
        changes: fields of the recipe.
        job: fields of the job, with one memory of decoded images for all runs.
        fits: whether each run's batch is to be one that fits into memory.
    """

    data_dir: str | Path
    dataset: str
    recipe_name: str | None
    changes: Mapping[str, Any]
    job: Mapping[str, Any]
    fits: bool

    @classmethod
    def of(cls, plan: Plan, shared: Mapping[str, Any]) -> _Asked:
        """Sorts the flags by what has a field of their name.

        Raises:
            InputError: for a value that no recipe or job can have.
        """
        given = dict(shared)
        data_dir, dataset, recipe_name = given.pop("data_dir"), given.pop("dataset"), given.pop("recipe")
        given.pop("device")
        told, kept = given.pop("set"), kept_pixels(given.pop("keep_gb"))
        fits = given["batch_size"] == "auto"
        given["batch_size"] = None if fits else given["batch_size"]
        fields, jobs = ({field.name for field in dataclasses.fields(kind)} for kind in (Recipe, Job))
        of_recipe = {name: value for name, value in given.items() if name in fields}
        # The two that a sweep varies, so that --set refuses them.
        changes = settings(told, model=plan.models[0], seed=plan.seeds[0], **of_recipe)
        return cls(
            data_dir=data_dir if isinstance(data_dir, Url) else Path(data_dir).resolve(),
            dataset=dataset,
            recipe_name=recipe_name,
            changes={k: value for k, value in changes.items() if value is not None and k not in ("model", "seed")},
            job={name: value for name, value in given.items() if name in jobs and name not in fields} | {"kept": kept},
            fits=fits,
        )

    def recipe(self, run: Run) -> Recipe:
        """Of a run that begins."""
        named = recipes.named(self.recipe_name or _DEFAULT_RECIPE)
        return named.with_changes(model=run.model, seed=run.seed, **self.changes)

    def job_of(self, run: Run) -> Job:
        """Of a run."""
        return Job(
            data_dir=self.data_dir,
            train_split=f"train{run.fold}",
            val_split=f"val{run.fold}",
            run_dir=run.folder,
            weights_name=f"{run.model}_{self.dataset}.pt",
            draw_short=False,  # the report has the curves of all runs
            **self.job,
        )

    def to_dict(self, plan: Plan) -> dict[str, Any]:
        """As sweep.json holds it."""
        return {
            "data_dir": str(self.data_dir),
            "dataset": self.dataset,
            "recipe": self.recipe_name or _DEFAULT_RECIPE,
            "changes": {**self.changes, **({"batch_size": "auto"} if self.fits else {})},
            "weights": dict(plan.weights),
        }


def _execute(run: Run, asked: _Asked, world: World, ranks: Ranks) -> None:
    """Does one run, from its beginning or its newest checkpoint."""
    gc.collect()  # the run before leaves its model and optimiser in cycles, which hold a card's memory
    settled, begun = start(
        Path(AUTO),
        run.folder,
        asked.recipe_name,
        _DEFAULT_RECIPE,
        ranks,
        model=run.model,
        seed=run.seed,
        **asked.changes,
    )
    job = asked.job_of(run)
    with watched(world, job.watchdog()) as alone:
        finetune_fold(
            job,
            fit_batch(settled, job, alone, auto=asked.fits, start=begun),
            alone,
            dataset=asked.dataset,
            fold=run.fold,
            weights=run.weights,
            start=begun,
            resume=True,
        )


def _check(plan: Plan, asked: _Asked, world: World) -> None:
    """Says before the first run what would end every run of a model, and which weights they begin with.

    Raises:
        InputError: for data, models, settings or weights that are not there or cannot be used.
    """
    first = plan.runs[0]
    recipe = asked.recipe(first)
    loader = open_split(asked.job_of(first), f"train{first.fold}", recipe, world, train=True)
    classes = len(loader.classes)
    loader.close()
    refuse_larger_batch(recipe, loader, f"train{first.fold}", world)
    if isinstance(asked.data_dir, Path):
        for fold in plan.folds:
            for split in ("train", "val", "test"):
                open_store(asked.data_dir, f"{split}{fold}", asked.job["store"])
    for name in plan.models:
        model = make_model(asked.recipe(plan.run(name, first.fold, first.seed)), classes, world)
        choice = plan.weights[name]
        try:
            weights_files.auto_load(model, name, choice)
        except InputError as error:
            if choice == "auto" and weights_files.find(name) is None:
                raise  # there are none
            print(f"[Warning] The runs of {name} will fail: {error}")


def _compile_once_a_model(plan: Plan, asked: _Asked, world: World) -> None:
    """Lets torch keep what it compiled of all models: beyond a few variants of one function it would compile no more.

    A later run of the same model then takes what the first one has compiled.
    """
    compiling = asked.job["compile"]
    if compiling in ("on", "graphs") or (compiling == "auto" and world.device.type == "cuda"):
        import torch._dynamo.config as config  # seconds, and only here

        config.recompile_limit = max(config.recompile_limit, _VARIANTS * len(plan.models))


def _list(plan: Plan, asked: _Asked, stale_s: float) -> None:
    """Prints what a sweep would do."""
    stored = read(plan.run_dir / SWEEP)
    if stored is not None:
        refuse_another(stored, asked.to_dict(plan), plan.run_dir)
    states = States(stale_s).all(plan.runs)
    print("\n".join(table.listing(states)))
    again = {
        run: dataclasses.replace(state, kind="waiting") if state.kind == "failed" else state
        for run, state in states.items()
    }
    left = table.time_left(seconds_left(again, asked.recipe(plan.runs[0]).epochs), 1)
    if all(state.result is not None for state in states.values()):
        left = "nothing is left to do"
    print(f"{table.counts(states)}; {left or 'no run has ended yet that would tell how long they take'}.")
