"""`twistnet finetune`: the guide's train.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from launch.ranks import Ranks
from loaders import InputError
from loaders.choosing import DecoderName, StoreName
from loaders.kept import kept_pixels
from twistnet import distributed, signals
from twistnet.arguments import Url
from twistnet.datasets import Dataset, check_dataset, check_fold
from twistnet.finetuning import finetune_fold
from twistnet.fitting import fit_batch
from twistnet.job import Job
from twistnet.result import Result
from twistnet.resuming import AUTO, run_folder_of
from twistnet.starting import settings, start
from twistnet.step import Compile


@signals.at_once()
def finetune(
    *,
    data_dir: Url | Path,
    dataset: Dataset = "dtd",
    recipe: str | None = None,
    model: str | None = None,
    fold: int | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    lr: float | None = None,
    run_dir: Path | None = None,
    resume: Path | None = None,
    weights: str | None = None,
    tune: Literal["all", "classifier", "probe"] | None = None,
    amp: bool | None = None,
    workers: int | None = None,
    warmup_epochs: int | None = None,
    size: int | None = None,
    policy: str | None = None,
    interpolation: Literal["bilinear", "bicubic", "area"] | None = None,
    set: tuple[str, ...] = (),
    store: StoreName = "auto",
    decoder: DecoderName = "auto",
    max_bad: float = 0.0,
    verify: bool = False,
    stage: Path | None = None,
    stage_gb: float | None = None,
    keep_gb: float | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    compile: Compile = "auto",
    profile: int = 0,
    log_every: int = 50,
    checkpoint_minutes: float = 10.0,
    keep_every: int = 100,
    hang_minutes: float = 20.0,
    max_skips: int = 10,
    force: bool = False,
) -> None:
    """Fine-tunes a model on one fold, choosing the epoch on its validation list and testing once.

    Args:
        data_dir: the data set's folder as downloaded, or a converted one's; with --stage also its URL.
        dataset: whose layout and folds data_dir has; folder is one with a folder for each class.
        recipe: dtd, dtd_scratch or demo_dtd; dtd unless given.
        model: a model that timm knows; twistnet18 in the recipes.
        fold: which of the data set's splits, from 1; 1 unless given.
        seed: of initialisation, order and augmentation.
        epochs: passes over the training images.
        batch_size: images a process and backward pass; auto splits the recipe's so that it fits into memory.
        lr: peak learning rate at a total batch of 256.
        run_dir: the run's folder; runs/finetune unless given.
        resume: checkpoint or folder to go on from, with its own recipe; auto takes what is there, or begins.
        weights: auto looks in weights/, none starts from random weights, otherwise a file; auto unless given.
        tune: all of the model, the classifier on a frozen backbone, or a linear probe of its features.
        amp: mixed precision: bfloat16, or float16 where the card has none; cards with bfloat16 use it unless --no_amp.
        workers: decoding threads a process; the usable cores unless given.
        warmup_epochs: epochs of linear warm-up.
        size: side of the images in pixels.
        policy: operations on colours and geometry, as randaugment-n2-m9 or none; docs/augment.md lists them.
        interpolation: of the resize; area is FFCV's.
        set: any other values of the recipe that twistnet show prints, as ema_decay=0.9999,drop_path=0.1.
        store: form of a converted set; auto takes the beton where it holds pixels and fits into memory, else shards.
        decoder: native, device and reference give the same pixels, ffcv FFCV's, dali DALI's; auto takes native.
        max_bad: largest share of the images that may be replaced where they cannot be decoded.
        verify: hold every image to its checksum whenever it is read.
        stage: folder on a local disk that a converted set's shards are copied to while they are needed.
        stage_gb: how much shards may take there; nine tenths of the free disk unless given.
        keep_gb: memory that decoded images may take, so that they are decoded once; 0: none; unless given, a third of
            the memory, shared by the processes of a machine.
        device: where to train; auto takes a CUDA card where there is one.
        compile: on compiles the model, graphs also replays it by CUDA graphs; auto compiles on a card alone.
        profile: steps to profile, into profile.txt and trace.json.gz of the run's folder.
        log_every: steps between log rows.
        checkpoint_minutes: least minutes between checkpoints inside an epoch.
        keep_every: epochs between checkpoints that are kept for good; 0 keeps none.
        hang_minutes: longest time without progress, after which the run says where it hangs and ends; 0: any.
        max_skips: most steps in a row that may be skipped for want of a finite gradient.
        force: go on from a checkpoint with other values of the recipe, or other images of the same classes.
    """
    folder = run_folder_of(resume, run_dir, Path("runs/finetune"), "--run_dir")
    if weights == "":
        raise InputError("--weights is empty: name a file, auto or none.")
    if resume is not None and str(resume) != AUTO and weights is not None:
        raise InputError(f"--weights {weights} comes too late for --resume {resume}: leave it out, or start a new run.")
    settled, begun = start(
        resume,
        folder,
        recipe,
        "dtd",
        Ranks.from_env(),
        force=force,
        **settings(
            set,
            model=model,
            seed=seed,
            tune=tune,
            epochs=epochs,
            batch_size=None if batch_size == "auto" else batch_size,
            lr=lr,
            amp=amp,
            warmup_epochs=warmup_epochs,
            size=size,
            policy=policy,
            interpolation=interpolation,
        ),
    )
    if begun is not None:
        trained_on = begun.state["data"]["train_split"]
        if not re.fullmatch(r"train[0-9]+", trained_on):
            raise InputError(
                f"{begun.path} was trained on {trained_on}, no fold: go on with twistnet pretrain --resume."
            )
        if fold is not None and trained_on != f"train{fold}":
            raise InputError(f"--fold {fold} is not that of {begun.path}, which trains on {trained_on}: leave it out.")
        fold = int(trained_on.removeprefix("train"))
    fold = 1 if fold is None else fold
    check_fold(dataset, fold, "--fold")
    check_dataset(dataset, data_dir)
    job = Job(
        data_dir=data_dir,
        train_split=f"train{fold}",
        val_split=f"val{fold}",
        run_dir=folder,
        weights_name=f"{settled.model}_{dataset}.pt",
        workers=workers,
        store=store,
        decoder=decoder,
        max_bad=max_bad,
        verify=verify,
        stage=stage,
        stage_gb=stage_gb,
        kept=kept_pixels(keep_gb),
        compile=compile,
        profile=profile,
        log_every=log_every,
        checkpoint_minutes=checkpoint_minutes,
        keep_every=keep_every,
        hang_minutes=hang_minutes,
        max_skips=max_skips,
    )
    with distributed.join(device, job.watchdog()) as world:
        settled = fit_batch(settled, job, world, auto=batch_size == "auto", start=begun)
        result = finetune_fold(
            job,
            settled,
            world,
            dataset=dataset,
            fold=fold,
            weights=weights or "auto",
            start=begun,
            resume=resume is not None,
        )
        if world.is_main:
            _report(result, folder)


def _report(result: Result, folder: Path) -> None:
    print(
        f"Best val_acc {result.val_top1:.2%} after epoch {result.best_epoch}; "
        f"test_acc of that epoch {result.test_top1:.2%}, class-balanced {result.test_balanced:.2%}; "
        f"run folder {folder}."
    )
