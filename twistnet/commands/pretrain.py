"""`twistnet pretrain`: the guide's pretrain_imagenet.py."""

from __future__ import annotations

import filecmp
import os
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from launch.ranks import Ranks
from loaders import InputError
from loaders.choosing import DecoderName, StoreName
from loaders.files import existing_parent, write_atomically
from loaders.layouts import LAYOUTS, find_layout
from twistnet import distributed, signals
from twistnet.arguments import Url
from twistnet.fitting import fit_batch
from twistnet.job import Job, Outcome
from twistnet.resuming import run_folder_of
from twistnet.starting import settings, start
from twistnet.step import Compile
from twistnet.train import train
from twistnet.weights import find


@signals.at_once()
def pretrain(
    *,
    data_dir: Url | Path,
    recipe: str | None = None,
    model: str | None = None,
    epochs: int | None = None,
    batch_size: int | Literal["auto"] | None = None,
    lr: float | None = None,
    checkpoint_dir: Path | None = None,
    resume: Path | None = None,
    amp: bool | None = None,
    workers: int | None = None,
    accumulate: int | None = None,
    clip_grad: float | None = None,
    warmup_epochs: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    weights_dir: Path | None = None,
    publish: bool | None = None,
    policy: str | None = None,
    interpolation: Literal["bilinear", "bicubic", "area"] | None = None,
    set: tuple[str, ...] = (),
    store: StoreName = "auto",
    decoder: DecoderName = "auto",
    max_bad: float = 0.0,
    verify: bool = False,
    stage: Path | None = None,
    stage_gb: float | None = None,
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
    """Trains a model from random weights.

    On several cards: torchrun --nproc_per_node=4 -m twistnet pretrain --data_dir DIR ...

    Args:
        data_dir: folder with train/<class>/ and val/<class>/, or a converted set's; with --stage also its URL.
        recipe: as twistnet show names them; guide unless given.
        model: a model that timm knows; twistnet18 in the recipes.
        epochs: passes over the training images.
        batch_size: images a process and backward pass; auto splits the recipe's so that it fits into memory.
        lr: peak learning rate at a total batch of 256.
        checkpoint_dir: the run's folder; checkpoints unless given.
        resume: checkpoint or folder to go on from, with its own recipe; auto takes what is there, or begins.
        amp: mixed precision: bfloat16, or float16 where the card has none; cards with bfloat16 use it unless --no_amp.
        workers: decoding threads a process; the usable cores unless given.
        accumulate: backward passes a step.
        clip_grad: largest norm of the gradient.
        warmup_epochs: epochs of linear warm-up.
        size: side of the images in pixels.
        seed: of initialisation, order and augmentation.
        weights_dir: where the final weights are copied to, to be found by themselves; weights unless given.
        publish: whether to copy them there; they are unless --no_publish is given.
        policy: operations on colours and geometry, as randaugment-n2-m9 or none; docs/augment.md lists them.
        interpolation: of the resize; area is FFCV's.
        set: any other values of the recipe that twistnet show prints, as ema_decay=0.9999,drop_path=0.1.
        store: form of a converted set; auto takes the beton where it holds pixels and fits into memory, else shards.
        decoder: native, device and reference give the same pixels, ffcv FFCV's, dali DALI's; auto takes native.
        max_bad: largest share of the images that may be replaced where they cannot be decoded.
        verify: hold every image to its checksum whenever it is read.
        stage: folder on a local disk that a converted set's shards are copied to while they are needed.
        stage_gb: how much shards may take there; nine tenths of the free disk unless given.
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
    run_dir = run_folder_of(resume, checkpoint_dir, Path("checkpoints"), "--checkpoint_dir")
    settled, begun = start(
        resume,
        run_dir,
        recipe,
        "guide",
        Ranks.from_env(),
        force=force,
        **settings(
            set,
            model=model,
            epochs=epochs,
            batch_size=None if batch_size == "auto" else batch_size,
            lr=lr,
            amp=amp,
            accumulate=accumulate,
            clip_grad=clip_grad,
            warmup_epochs=warmup_epochs,
            size=size,
            policy=policy,
            interpolation=interpolation,
            seed=seed,
        ),
    )
    layout = find_layout(data_dir) if isinstance(data_dir, Path) else None
    if layout and layout is not LAYOUTS["folder"]:
        raise InputError(
            f"{data_dir} is {layout.title}, which has folds: take twistnet finetune --dataset {layout.name} --fold 1."
        )
    if settled.tune != "all":
        raise InputError(
            f"--set tune={settled.tune} is for trained weights: take twistnet finetune --tune {settled.tune}."
        )
    publish_to = _publish_to(weights_dir, publish, begun.state if begun else None)
    job = Job(
        data_dir=data_dir,
        run_dir=run_dir,
        weights_name=f"{settled.model}_imagenet.pt",
        workers=workers,
        store=store,
        decoder=decoder,
        max_bad=max_bad,
        verify=verify,
        stage=stage,
        stage_gb=stage_gb,
        publish_to=publish_to,
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
        outcome = train(job, settled, world, start=begun)
        if world.is_main:
            _report(outcome, run_dir)
            if publish_to:
                _publish(outcome.weights, publish_to)


def _report(outcome: Outcome, run_dir: Path) -> None:
    print(
        f"Final val_acc {outcome.last.top1:.2%}, top-5 {outcome.last.top5:.2%}; "
        f"best {outcome.best_top1:.2%} after epoch {outcome.best_epoch}; run folder {run_dir}."
    )


def _publish_to(folder: Path | None, publish: bool | None, checkpoint: dict[str, Any] | None) -> Path | None:
    """The folder that final weights are copied to, as asked for now or when the run began; None: none.

    Raises:
        InputError: where it cannot be written to, before hours of training and not after.
    """
    if publish is False:
        return None
    if checkpoint is not None and folder is None and publish is None:
        folder = Path(checkpoint["publish_to"]) if checkpoint["publish_to"] else None
    else:
        folder = folder or Path("weights")
    if folder is None:
        return None
    there = existing_parent(folder)
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--weights_dir {folder} cannot be written to: choose another, or pass --no_publish.")
    return folder


def _publish(weights: Path, folder: Path) -> None:
    """Copies final weights, both files, to where they are found by themselves; what was there gets a dated name.

    Raises:
        InputError: where that fails; the weights are in the run folder all the same.
    """
    try:
        _copy_weights(weights, folder)
    except OSError as error:
        raise InputError(
            f"{weights} could not be copied to {folder} ({error.strerror}): the weights are safe, copy them yourself."
        ) from error


def _copy_weights(weights: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.name
    for suffix in (".safetensors", ".pt"):  # the .pt last: it is the one that is looked for
        source, file = weights.with_suffix(suffix), target.with_suffix(suffix)
        if file.exists() and not filecmp.cmp(source, file, shallow=False):
            written = datetime.fromtimestamp(file.stat().st_mtime)
            kept = file.with_name(f"{file.stem}.{written:%Y-%m-%d-%H%M%S}{suffix}")
            file.replace(kept)
            print(f"The weights of before are kept as {kept}.")
        _copy(source, file)
    found = find(target.stem.removesuffix("_imagenet"))
    print(f"Weights saved to {target}" + (", where later runs find them." if found == target.resolve() else "."))


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
