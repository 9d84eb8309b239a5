"""A task for SkyPilot, on any cloud; with spot machines as a managed job, which SkyPilot starts again elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from launch.plan import Launch, Plan, headline, one_word

_PORT = 29_500  # torchrun's own default


def launch(
    plan: Plan,
    *,
    file: Path | None = None,
    accelerator: str | None = None,
    infra: str | None = None,
    spot: bool = False,
    workdir: str = ".",
    setup: str = "pip install --editable .",
) -> Launch:
    """The task and its submission.

    Args:
        plan: what to run. Mounts are what SkyPilot can mount: local paths and buckets; a variable without a value is a
            secret, taken from the environment of `sky`.
        file: where it goes; the job's name with .sky.yaml unless given.
        accelerator: the card's name, as H100.
        infra: cloud, region and zone, as aws/us-east-1; the cheapest unless given.
        spot: take spot machines, as a managed job, which goes on elsewhere when they are taken away.
        workdir: folder that is copied to the nodes, where the commands run.
        setup: shell commands that install twistnet on a node.

    Raises:
        ValueError: one sentence, where cards have no name, or a value cannot stand in the file.
    """
    if plan.gpus and not accelerator:
        raise ValueError(f"--gpus {plan.gpus} have no name: add --accelerator, as H100, or --gpus 0 for the CPU.")
    file = file or Path(f"{plan.name}.sky.yaml")
    secrets = [word for name in plan.inherited for word in ("--secret", name)]
    start = ["jobs", "launch", "--name"] if spot else ["launch", "--cluster"]
    argv = ["sky", *start, plan.name, *secrets, str(file)]
    resources: dict[str, Any] = {
        **({"infra": one_word("infra", infra)} if infra else {}),
        **(
            {"accelerators": f"{one_word('accelerator', accelerator)}:{plan.gpus}"} if plan.gpus and accelerator else {}
        ),
        **({"image_id": f"docker:{plan.image}"} if plan.image else {}),
        **({"use_spot": True, "job_recovery": {"max_restarts_on_errors": plan.max_restarts}} if spot else {}),
    }
    task = {
        "name": plan.name,
        **({"resources": resources} if resources else {}),
        "num_nodes": plan.nodes,
        "workdir": workdir,
        **({"envs": plan.values} if plan.values else {}),
        **({"secrets": dict.fromkeys(plan.inherited)} if plan.inherited else {}),
        **({"file_mounts": _file_mounts(plan)} if plan.mounts else {}),
        "setup": setup,
        "run": _run(plan),
    }
    notes = [] if plan.mounts else ["Without --mounts of a bucket the checkpoints are lost with the machines."]
    text = yaml.dump(task, Dumper=_Blocks, sort_keys=False, allow_unicode=True, width=110)
    return Launch(argv=argv, file=file, text=f"{headline(argv)}\n{text}", notes=notes)


def _file_mounts(plan: Plan) -> dict[str, Any]:
    """Buckets are mounted, so that what is written there stays; local paths are copied."""
    return {
        path: {"source": source, "mode": "MOUNT"} if "://" in source else source for path, source in plan.mounts.items()
    }


def _run(plan: Plan) -> str:
    """The shell commands of every node."""
    words = plan.checked("@NODES@", "@ENDPOINT@", plan.name, "--node_rank_from=SKYPILOT_NODE_RANK")
    ends = words.index("twistnet")
    ours = shlex.join(words[:ends]).replace("@NODES@", '"$SKYPILOT_NUM_NODES"').replace("@ENDPOINT@", '"$endpoint"')
    return (
        f'endpoint=$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{_PORT}\nexec {ours} \\\n    {shlex.join(words[ends:])}\n'
    )


def _text(dumper: Any, text: str) -> Any:
    # Where a block cannot say a text, the emitter falls back to quotes.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks: Any = type("_Blocks", (yaml.SafeDumper,), {})  # scripts of several lines as blocks, which can be read
_Blocks.add_representer(str, _text)
