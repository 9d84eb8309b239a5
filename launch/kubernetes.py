"""A TrainJob for Kubeflow Trainer 2.3 or newer, on its runtime for torch.

The runtime names the pods and says by PET_* variables which node a pod is and where the first one is found; Kubernetes
puts variables written as $(NAME) into the words of the command.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from launch.plan import Launch, Plan, headline, one_word

_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # RFC 1123
_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?")
_GRACE_S = 60  # from SIGTERM to SIGKILL; a run saves within 25, Kubernetes gives 30
_ENDPOINT = "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"
_NODE = "node"  # what the runtime calls its job, and the container in it


def launch(
    plan: Plan,
    *,
    file: Path | None = None,
    namespace: str | None = None,
    runtime: str = "torch-distributed",
    cpus_per_gpu: int | None = None,
    memory: str | None = None,
) -> Launch:
    """The TrainJob and its submission.

    Args:
        plan: what to run. Mounts are claims of volumes; a variable without a value comes from the secret that is called
            as the job is.
        file: where it goes; the job's name with .trainjob.yaml unless given.
        namespace: of the job; kubectl's own unless given.
        runtime: the cluster's training runtime.
        cpus_per_gpu: cores a process.
        memory: of a node, as 200Gi; it holds /dev/shm, too.

    Raises:
        ValueError: one sentence, where there is no image, or a value cannot stand in the file.
    """
    if not plan.image:
        raise ValueError("--target kubernetes needs --image, a container image that has twistnet installed: name one.")
    if cpus_per_gpu is not None and cpus_per_gpu < 1:
        raise ValueError(f"--cpus_per_gpu {cpus_per_gpu} is below 1: give 1 or more, or leave it out.")
    if memory is not None and not _MEMORY.fullmatch(memory):
        raise ValueError(
            f"--memory {memory!r} is no quantity of Kubernetes': write a number and Mi, Gi or Ti, as 200Gi."
        )
    for path, claim in plan.mounts.items():
        if not _CLAIM.fullmatch(claim):
            raise ValueError(
                f"--mounts {path}={claim} names no claim: Kubernetes' names are of lower-case letters, digits, hyphens "
                "and dots."
            )
    file = file or Path(f"{plan.name}.trainjob.yaml")
    argv = ["kubectl", "apply", "--filename", str(file)]
    resources = {
        **({"nvidia.com/gpu": plan.gpus} if plan.gpus else {}),
        **({"cpu": cpus_per_gpu * plan.processes} if cpus_per_gpu is not None else {}),
        **({"memory": memory} if memory else {}),
    }
    rank = ("--node_rank_from=PET_NODE_RANK", "--wait_for_name")
    command = plan.checked(str(plan.nodes), "@ENDPOINT@", plan.name, *rank)
    trainer: dict[str, Any] = {
        "image": plan.image,
        "numNodes": plan.nodes,
        "numProcPerNode": plan.processes,
        "command": [_literal(word).replace("@ENDPOINT@", _ENDPOINT) for word in command[: command.index("twistnet")]]
        + [_literal(word) for word in command[command.index("twistnet") :]],
        **({"env": [*_values(plan), *_secrets(plan)]} if plan.env else {}),
        **({"resourcesPerNode": {"requests": dict(resources), "limits": dict(resources)}} if resources else {}),
    }
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": plan.name, **({"namespace": one_word("namespace", namespace)} if namespace else {})},
        "spec": {
            "runtimeRef": {"name": one_word("runtime", runtime)},
            "trainer": trainer,
            "runtimePatches": [{"manager": "twistnet.launch", "trainingRuntimeSpec": _patch(plan)}],
        },
    }
    notes = [] if plan.mounts else ["Without --mounts the checkpoints are in the container, and lost with it."]
    text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=110)
    return Launch(argv=argv, file=file, text=f"{headline(argv)}\n{text}", notes=notes)


def _literal(text: str) -> str:
    """The text in a field where Kubernetes replaces $(NAME)."""
    return text.replace("$", "$$")


def _values(plan: Plan) -> list[dict[str, Any]]:
    return [{"name": name, "value": _literal(value)} for name, value in plan.values.items()]


def _secrets(plan: Plan) -> list[dict[str, Any]]:
    return [{"name": name, "valueFrom": {"secretKeyRef": {"name": plan.name, "key": name}}} for name in plan.inherited]


def _patch(plan: Plan) -> dict[str, Any]:
    """What the pods have beyond the runtime's: time to save, shared memory that the loader can use, and volumes."""
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    # A volume for each path, for the patch tells mounts apart by their volumes' names.
    for index, (path, claim) in enumerate(plan.mounts.items()):
        volumes.append({"name": f"volume-{index}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"volume-{index}", "mountPath": path})
    pod = {
        "terminationGracePeriodSeconds": _GRACE_S,
        "volumes": volumes,
        "containers": [{"name": _NODE, "volumeMounts": mounts}],
    }
    job = {"name": _NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
