"""The commands, one file each: the only place where the command line meets convert, bench and launch.

A command is a function with annotated parameters and a Google docstring, called as its file is. Parameters before `*`
may be given by position; those after it by flag only; `*rest: str` takes what follows `--`. It returns None, or an
exit code. To add one, write the file and a line here; a name of two words is called as it is written.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """Where a command is and what it is for, so that the list of all of them imports none."""

    target: str
    """module:function"""
    summary: str
    """What the list of commands says of it; one line."""


COMMANDS = {
    "doctor": Command("twistnet.commands.doctor:doctor", "Says what is installed, what this machine has and lacks"),
    "show": Command("twistnet.commands.show:show", "Prints a recipe with all its values"),
    "models": Command("twistnet.commands.models:models", "Lists models with their parameters and FLOPs, counted"),
    "augment show": Command(
        "twistnet.commands.augment:show", "Draws every operation, and a batch as the model sees it"
    ),
    "pretrain": Command("twistnet.commands.pretrain:pretrain", "Trains a model on ImageNet, or resumes its training"),
    "finetune": Command("twistnet.commands.finetune:finetune", "Fine-tunes a model on one fold of a smaller data set"),
    "sweep": Command(
        "twistnet.commands.sweep:sweep", "Fine-tunes models on all folds with several seeds, skipping what is done"
    ),
    "report": Command("twistnet.commands.report:report", "Tables and figures of many fine-tuning runs"),
    "export": Command(
        "twistnet.commands.export:export", "Writes a run's model as a folder that timm loads, with a card"
    ),
    "predict": Command("twistnet.commands.predict:predict", "Names the most probable classes of images"),
    "replay": Command("twistnet.commands.replay:replay", "Looks into a step that was skipped for want of a gradient"),
    "launch": Command(
        "twistnet.commands.launch:launch", "Starts training on many nodes, by SLURM, Kubernetes and others"
    ),
    "convert": Command("twistnet.commands.convert:convert", "Converts a data set as downloaded into fast shards"),
    "convert prepare": Command("twistnet.commands.convert:prepare", "Extracts the official archives into folders"),
    "convert count": Command(
        "twistnet.commands.convert:count", "Counts images, and compares with the numbers published"
    ),
    "convert dtd": Command("twistnet.commands.download:dtd", "Fetches DTD or Flowers-102, and checks what is there"),
    "convert merge": Command("twistnet.commands.convert:merge", "Joins the parts that array jobs converted"),
    "convert check": Command("twistnet.commands.convert:check", "Checks a converted set, to the last image if asked"),
    "convert show": Command("twistnet.commands.convert:show", "Shows what a converted set holds"),
    "demo": Command("twistnet.commands.demo:demo", "Goes from photographs to a trained TwistNet-18 in minutes"),
}
