"""`twistnet replay`: what was in a step that was skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from loaders import Batch
from twistnet import distributed
from twistnet.augment_sheets import batch_sheet
from twistnet.replaying import Replay
from twistnet.replaying import replay as take_again
from twistnet.reporting import counted

_SHOWN = 16


def replay(
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    step: int | None = None,
    amp: bool | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Takes a step that had no finite gradient once more, says which images and which layer it was, and draws them.

    Args:
        run_dir: the run's folder, with bad_steps.jsonl and a checkpoint.
        data_dir: the data set that it was trained on; where the run read it unless given.
        step: its number as warnings give it, from 1; the first after the newest checkpoint that comes before any.
        amp: mixed precision; the run's own unless given.
        device: where to compute; auto takes a CUDA card where there is one.
    """
    with distributed.join(device) as world:
        found = take_again(run_dir, data_dir, world, step, amp=amp)
        try:
            _tell(found, run_dir)
        finally:
            found.loader.close()


def _tell(found: Replay, run_dir: Path) -> None:
    many, where = len(found.losses), "before" if found.steps_before >= 0 else "after"
    away = counted(abs(found.steps_before), "step")
    print(f"Step {found.step}, {many} images, with the weights of {found.checkpoint}, {away} {where} it.")
    finite = found.losses.isfinite()
    bad = int((~finite).sum())
    print(f"Gradient's norm {found.grad_norm:.4g}; {bad} of {many} images have no finite loss.")
    if found.first_bad:
        print(f"The first output that is not finite is that of {found.first_bad}.")
    elif bad == 0:
        if found.steps_before > 0:
            print(f"With these weights all is finite; the run's may have diverged in the {away} since.")
            print("First try a lower --lr.")
        print("All is finite in this precision: look again with --amp or --no_amp, as the run had it.")
    order = found.losses.nan_to_num(torch.inf, posinf=torch.inf).argsort(descending=True)[:_SHOWN]
    for place in order.tolist():
        key = found.loader.key(int(found.batch.ids[place]))
        print(f"  loss {found.losses[place]:9.4g}  {key}")
    worst = Batch(*(tensor.cpu()[order] for tensor in found.batch))
    sheet = batch_sheet(worst, found.augment, found.loader.classes, run_dir / f"step-{found.step}.png")
    print(f"Drawn: {sheet}")
