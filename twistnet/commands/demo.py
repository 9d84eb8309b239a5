"""`twistnet demo`: the whole way on photographs that come with installed packages.

photographs -> pretrained TwistNet-18 -> textures, with and without the pretrained weights
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from convert.contact_sheet import contact_sheet
from convert.photographs import make_demo_sets
from launch.ranks import Ranks
from loaders import InputError
from loaders.files import write_atomically
from twistnet import distributed
from twistnet.finetuning import finetune_fold
from twistnet.job import Job
from twistnet.recipes import named
from twistnet.train import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the demo's table.

    Attributes:
        what: what was trained.
        accuracy: on images that training did not see, 0 to 1.
        chance: what guessing would reach.
        images_per_s: trained on.
        seconds: of the whole stage, validation and files included.
        folder: the run.
    """

    what: str
    accuracy: float
    chance: float
    images_per_s: float
    seconds: float
    folder: str


def demo(*, out: Path = Path("demo"), epochs: int | None = None, seed: int = 0, workers: int | None = None) -> None:
    """Pretrains TwistNet-18 on photographs, fine-tunes it on textures, and compares with training from scratch.

    Takes a few minutes on two CPU cores. The images are cut from the photographs that scikit-image and scikit-learn
    ship; pip install 'twistnet[demo]' brings both.

    Args:
        out: folder for the data sets, which are made once, and for the runs.
        epochs: pretraining epochs; the demo recipe's unless given.
        seed: of the data, of initialisation, order and augmentation.
        workers: decoding threads; the usable cores unless given.
    """
    if Ranks.from_env().world_size > 1:
        raise InputError("the demo runs in one process: call twistnet demo without torchrun.")
    recipe, tuning = named("demo").with_changes(epochs=epochs, seed=seed), named("demo_dtd").with_changes(seed=seed)
    sets = make_demo_sets(out / "data", seed=seed)
    for folder in (sets.photographs / "train", sets.dtd / "images"):
        print(f"What the images show: {contact_sheet(folder, out / f'{folder.parent.name}.png')}")
    runs = out / "runs" / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    rows = []
    with distributed.join("auto") as world:
        print(f"1. Pretraining on {sets.num_train} photograph crops of {sets.num_subjects} classes")
        start = time.perf_counter()
        folder = runs / "pretrained"
        job = Job(
            data_dir=sets.photographs,
            run_dir=folder,
            weights_name=f"{recipe.model}_imagenet.pt",
            workers=workers,
            log_every=10,
        )
        pretrained = train(job, recipe, world)
        rows.append(
            Row(
                what="pretraining, validation",
                accuracy=pretrained.last.top1,
                chance=1 / sets.num_subjects,
                images_per_s=pretrained.images_per_s,
                seconds=time.perf_counter() - start,
                folder=str(folder),
            )
        )
        for number, (what, weights) in enumerate(
            (("from pretrained weights", str(pretrained.weights)), ("from scratch", "none")), start=2
        ):
            print(f"{number}. Fine-tuning on {sets.num_textures} textures {what}")
            start = time.perf_counter()
            folder = runs / f"textures {what}".replace(" ", "-")
            job = Job(
                data_dir=sets.dtd,
                train_split="train1",
                val_split="val1",
                run_dir=folder,
                weights_name=f"{recipe.model}_dtd.pt",
                workers=workers,
                log_every=5,
            )
            result = finetune_fold(job, tuning, world, dataset="dtd", fold=1, weights=weights)
            rows.append(
                Row(
                    what=f"textures {what}, test",
                    accuracy=result.test_top1,
                    chance=1 / sets.num_textures,
                    images_per_s=result.images_per_s,
                    seconds=time.perf_counter() - start,
                    folder=str(folder),
                )
            )
    report = json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"
    write_atomically(runs / "demo.json", lambda file: file.write(report.encode()))
    print(_table(rows))
    with_weights, scratch = rows[1].accuracy, rows[2].accuracy
    print(
        f"Pretrained weights {'helped' if with_weights > scratch else 'did not help'}: {with_weights:.1%} against "
        f"{scratch:.1%} from scratch, {with_weights / rows[1].chance:.1f} times chance."
    )
    print(f"Pretrained weights: {pretrained.weights}. All of it: {runs}/demo.json; curves.png in each run's folder.")


def _table(rows: list[Row]) -> str:
    lines = [f"{'':<38}{'accuracy':>9}{'chance':>8}{'images/s':>10}{'seconds':>9}  run folder"]
    for row in rows:
        figures = f"{row.accuracy:>9.1%}{row.chance:>8.1%}{row.images_per_s:>10.0f}{row.seconds:>9.0f}"
        lines.append(f"{row.what:<38}{figures}  {row.folder}")
    return "\n" + "\n".join(lines) + "\n"
