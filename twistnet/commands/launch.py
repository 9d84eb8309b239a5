"""`twistnet launch`: the training commands on one node or many, by the engines that there are."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from launch import kubernetes, local, skypilot, slurm
from launch.plan import Launch, Plan
from loaders import InputError
from loaders.files import write_atomically
from twistnet.arguments import UnknownFlag, UsageError, did_you_mean, parameters_of, parse, shown
from twistnet.cli import set_instead
from twistnet.commands import COMMANDS

TRAINING = ("pretrain", "finetune", "sweep")
_TARGETS: dict[str, Callable[..., Launch]] = {
    "local": local.launch,
    "slurm": slurm.launch,
    "kubernetes": kubernetes.launch,
    "skypilot": skypilot.launch,
}
# The flags that mean something to a target beyond those of all: elsewhere they are refused, rather than ignored.
_OWN = {
    "local": ("node_rank", "rdzv_endpoint"),
    "slurm": ("out", "image", "mounts", "cpus_per_gpu", "memory", "partition", "account", "qos", "time"),
    "kubernetes": ("out", "image", "mounts", "cpus_per_gpu", "memory", "namespace", "runtime"),
    "skypilot": ("out", "image", "mounts", "accelerator", "infra", "spot", "workdir", "setup"),
}


def launch(
    *command: str,
    target: Literal["local", "slurm", "kubernetes", "skypilot"],
    nodes: int = 1,
    gpus: int = 1,
    name: str = "twistnet",
    max_restarts: int = 3,
    env: tuple[str, ...] = (),
    python: str | None = None,
    dry_run: bool = False,
    out: Path | None = None,
    image: str | None = None,
    mounts: tuple[str, ...] = (),
    cpus_per_gpu: int | None = None,
    memory: str | None = None,
    node_rank: int | None = None,
    rdzv_endpoint: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    namespace: str | None = None,
    runtime: str | None = None,
    accelerator: str | None = None,
    infra: str | None = None,
    spot: bool = False,
    workdir: str | None = None,
    setup: str | None = None,
) -> int:
    """Starts a training command on one node or many, by torchrun, SLURM, Kubernetes or SkyPilot.

    The command is checked first, and goes on from its newest checkpoint where it is started again. A file is
    written for the engine and submitted:

        twistnet launch --target slurm --nodes 4 --gpus 8 -- pretrain --data_dir imagenet

    Args:
        command: pretrain, finetune or, in one process, sweep with its flags.
        target: local is this machine, or one of several that are started by hand.
        nodes: machines.
        gpus: cards a machine, and processes; 0 is one process on the CPU.
        name: of the job and its file.
        max_restarts: how often torchrun starts failed workers again.
        env: variables, NAME=VALUE; NAME alone is taken from here, on Kubernetes from the secret called as the job is.
        python: the interpreter on the nodes; this one unless given, python in a container or a cloud.
        dry_run: print the file and the command, and do nothing.
        out: the file; named after the job unless given.
        image: container; by pyxis on SLURM.
        mounts: of the container, PATH=SOURCE: a host's path on SLURM, a claim on Kubernetes, a bucket on SkyPilot.
        cpus_per_gpu: cores a process, on SLURM and Kubernetes.
        memory: of a machine, as 200G on SLURM and 200Gi on Kubernetes.
        node_rank: local: which of the machines this is, from 0.
        rdzv_endpoint: local: HOST:PORT of machine 0.
        partition: SLURM's.
        account: SLURM's.
        qos: SLURM's quality of service.
        time: SLURM's limit, as 24:00:00 or 2-00:00:00.
        namespace: Kubernetes'; kubectl's own unless given.
        runtime: Kubernetes: the training runtime; torch-distributed unless given.
        accelerator: SkyPilot: the card, as H100.
        infra: SkyPilot: the cloud, as aws/us-east-1; the cheapest unless given.
        spot: SkyPilot: a managed job on spot machines, which goes on elsewhere when they are taken away.
        workdir: SkyPilot: the folder that is copied to the machines; this one unless given.
        setup: SkyPilot: what installs twistnet there; pip install --editable . unless given.
    """
    given = {key: value for key, value in locals().items() if value is not None and value is not False and value != ()}
    words = checked(command)
    if words[0] == "sweep" and nodes * max(gpus, 1) > 1:
        raise InputError(
            f"a sweep runs in one process, not in {nodes * max(gpus, 1)}: launch it once for each card, or as a job "
            "array; all of them share its runs."
        )
    restarted = target != "local" or max_restarts > 0
    own = {key: given[key] for keys in _OWN.values() for key in keys if key in given}
    for key in own:
        if key not in _OWN[target]:
            of = " and ".join(other for other, keys in _OWN.items() if key in keys)
            raise InputError(f"--{key} has no effect with --target {target}: leave it out, it is of {of}.")
    if "out" in own:
        own["file"] = own.pop("out")
    on_these_nodes = target == "local" or (target == "slurm" and image is None)
    try:
        plan = Plan(
            command=going_on(words) if restarted else words,
            name=name,
            nodes=nodes,
            gpus=gpus,
            max_restarts=max_restarts,
            python=python or (sys.executable if on_these_nodes else "python"),
            env=_variables(env),
            image=own.pop("image", None),
            mounts=_mounts(own.pop("mounts", ())),
        )
        made = _TARGETS[target](plan, **own)
    except ValueError as error:
        raise InputError(str(error)) from error
    for note in [*made.notes, *(outside(plan) if target in ("kubernetes", "skypilot") and plan.mounts else [])]:
        print(f"[Note] {note}", file=sys.stderr)
    if dry_run:
        print(made)
        return 0
    return submit(made)


def checked(command: Sequence[str]) -> list[str]:
    """The training command, which its own parser has accepted.

    Raises:
        UsageError: it is none, or a flag or a value of it cannot be taken.
    """
    if not command:
        raise UsageError("no training command: write it after --, as -- pretrain --data_dir DIR")
    name, *words = command
    if name not in TRAINING:
        raise UsageError(f"{shown(name)} after -- is no training command{did_you_mean(name, TRAINING)}")
    if "--help" in words or "-h" in words:
        raise UsageError(f"the help of {name} is had without launch: twistnet {name} --help")
    function = _function(name)
    try:
        parse(function, words)
    except UsageError as error:
        told = set_instead(error, function) if isinstance(error, UnknownFlag) else error
        raise UsageError(f"{name} after --: {told}") from None
    return list(command)


def going_on(command: Sequence[str]) -> list[str]:
    """The command that goes on from its newest checkpoint, where it does not say from which."""
    name, *words = command
    function = _function(name)
    resumes = "resume" not in parameters_of(function) or "resume" in parse(function, words)  # a sweep always goes on
    return [*command] if resumes else [*command, "--resume", "auto"]


def outside(plan: Plan) -> list[str]:
    """What of the command's folders is in none of the mounts, a sentence each."""
    name, *words = plan.command
    given = parse(_function(name), words)
    folder, default = ("checkpoint_dir", "checkpoints") if name == "pretrain" else ("run_dir", "runs/finetune")
    data_dir, run_dir = str(given["data_dir"]), str(given.get(folder, default))
    notes = []
    if "://" not in data_dir and not plan.sees(data_dir):
        notes.append(f"--data_dir {data_dir} is in none of --mounts: it has to be there already where the job runs.")
    if not plan.sees(run_dir):
        notes.append(f"--{folder} {run_dir} is in none of --mounts: the checkpoints are lost with the machines.")
    return notes


def submit(made: Launch) -> int:
    """Writes the file and calls the engine, or takes this process's place where there is no file.

    Returns:
        The engine's exit code.

    Raises:
        InputError: one sentence, where the program is missing or the file is somebody else's.
        OSError: the file cannot be written.
    """
    program = made.argv[0]
    if made.file is None:
        if shutil.which(program) is None:
            raise InputError(f"{program} cannot be run: --python names an interpreter of this machine.")
        sys.stdout.flush()
        os.execvp(program, list(made.argv))
    if not made.is_ours():
        raise InputError(f"{made.file} exists and was not written by twistnet launch: name another by --out.")
    write_atomically(made.file, lambda file: file.write(made.text.encode()))
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not on this machine's PATH, but {made.file} is written: submit it from where {program} is."
        )
    return subprocess.run(made.argv).returncode


def _function(name: str) -> Any:
    module, _, attribute = COMMANDS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _variables(env: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in env:
        name, equals, value = text.partition("=")
        if name in found:
            raise ValueError(f"--env gives {name} twice: leave one.")
        found[name] = value if equals else None
    return found


def _mounts(mounts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in mounts:
        path, equals, source = text.partition("=")
        if not equals or path in found:
            raise ValueError(f"--mounts {text!r} is not one PATH=SOURCE of its own: write /data=SOURCE.")
        found[path] = source
    return found
