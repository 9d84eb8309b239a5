"""twistnet launch: what it checks, what it starts here, and the files for Kubernetes and SkyPilot."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import free_port
from launches import COMMAND, HOSTILE, Fakes, launch
from training import TINY

from twistnet.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((ROOT / "tests/data/trainjob_v1alpha1.json").read_text())["schema"]
KUBERNETES = ("kubernetes", "--nodes=2", "--gpus=8", "--image=lab/twistnet:1")
SKYPILOT = ("skypilot", "--nodes=2", "--gpus=8", "--accelerator=H100")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def printed(capfd: pytest.CaptureFixture[str], target: str, *flags: str, command: tuple[str, ...] = COMMAND) -> str:
    """What a dry run prints; it leaves no file."""
    assert launch(target, "--dry_run", *flags, command=command) == 0
    assert list(Path.cwd().iterdir()) == []
    return capfd.readouterr().out


def file_of(capfd: pytest.CaptureFixture[str], target: str, *flags: str, command: tuple[str, ...] = COMMAND) -> Any:
    """The YAML file of a dry run."""
    head, text = printed(capfd, target, *flags, command=command).split(":\n\n", 1)
    assert head.endswith(".yaml")
    return yaml.safe_load(text.rpartition("\n\n")[0])


def test_forgotten_hyphens_are_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--target", "local", "pretrain", "--data_dir", "d"]) == 2
    assert capfd.readouterr().err == (
        "twistnet launch: 'pretrain' has no place here: what goes to COMMAND follows --, so write -- pretrain. See "
        "twistnet launch --help.\n"
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ((), "no training command: write it after --, as -- pretrain --data_dir DIR."),
        (("doctor",), "doctor after -- is no training command."),
        (("pretrian", "--data_dir=d"), "pretrian after -- is no training command: did you mean pretrain?"),
        (("pretrain",), "pretrain after --: missing --data_dir."),
        (("pretrain", "--data_dir=d", "--epoch=3"), "pretrain after --: unknown flag --epoch: did you mean --epochs?"),
        (("finetune", "--data_dir=d", "--fold=x"), "finetune after --: --fold 'x' is not a whole number."),
        (
            ("pretrain", "--data_dir=d", "--drop_path=0.1"),
            "pretrain after --: --drop_path is no flag but a value of the",
        ),
        (("pretrain", "--help"), "the help of pretrain is had without launch: twistnet pretrain --help."),
    ],
)
def test_a_command_that_cannot_run_is_refused_before_anything_is_submitted(
    command: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    fakes = Fakes(tmp_path / "fakes")
    fakes.add("sbatch")
    monkeypatch.setenv("PATH", f"{fakes.folder}:{os.environ['PATH']}")
    assert launch("slurm", command=command) == 2
    assert capfd.readouterr().err.startswith(f"twistnet launch: {sentence}")
    assert fakes.calls("sbatch") == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (("--gpus=4",), ["--standalone", "--nnodes=1", "--nproc_per_node=4", "--max_restarts=3"]),
        (("--gpus=0", "--max_restarts=5"), ["--standalone", "--nnodes=1", "--nproc_per_node=1", "--max_restarts=5"]),
    ],
)
def test_local_is_torchrun_alone(flags: tuple[str, ...], where: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    shown = shlex.split(printed(capfd, "local", *flags))
    assert shown == [*torchrun, *where, "--module", "twistnet", *COMMAND, "--resume", "auto"]


def test_local_of_several_nodes_checks_that_they_meet(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--nodes=2", "--node_rank=0", "--rdzv_endpoint=node-1:29500", "--env=A=1 2")
    assert shlex.split(printed(capfd, "local", *flags)) == [
        *(
            "env",
            "A=1 2",
            sys.executable,
            "-m",
            "launch.rendezvous",
            "node-1:29500",
            "--nodes=2",
            "--node_rank=0",
            "--",
        ),
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--rdzv_id=twistnet", "--rdzv_backend=c10d"),
        *("--rdzv_endpoint=node-1:29500", "--nproc_per_node=1", "--max_restarts=3"),
        *("--module", "twistnet", *COMMAND, "--resume", "auto"),
    ]


@pytest.mark.parametrize(
    ("flags", "command", "resumes"),
    [
        (("--max_restarts=0",), COMMAND, []),
        ((), (*COMMAND, "--resume", "x.pt"), ["--resume", "x.pt"]),
        ((), (*COMMAND, "--resume=x.pt"), ["--resume=x.pt"]),
        ((), (*COMMAND, "--amp"), ["--amp", "--resume", "auto"]),
    ],
)
def test_what_is_started_again_goes_on_unless_the_user_says_from_where(
    flags: tuple[str, ...], command: tuple[str, ...], resumes: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(printed(capfd, "local", *flags, command=command))
    assert words[words.index("imagenet") + 1 :] == resumes


def test_a_sweep_is_one_process_that_always_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    command = ("sweep", "--data_dir", "dtd", "--models", "resnet18,twistnet18", "--folds", "1-10")
    words = shlex.split(printed(capfd, "local", command=command))
    assert words[-len(command) :] == [*command]
    for flags, processes in ((("--gpus=2",), 2), (("--nodes=4", "--gpus=0"), 4)):
        assert launch("local", *flags, command=command) == 1
        assert f"a sweep runs in one process, not in {processes}: launch it once" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("local", "--nodes=2"), "--nodes 2 started by hand need --node_rank (0 to 1) and --rdzv_endpoint HOST:PORT"),
        (("local", "--node_rank=0"), "--node_rank is of several nodes, and --nodes is 1"),
        (("local", "--nodes=2", "--node_rank=2", "--rdzv_endpoint=a:1"), "--node_rank 2 is not among --nodes 2"),
        (("local", "--nodes=2", "--node_rank=0", "--rdzv_endpoint=a"), "rendezvous endpoint 'a' is not HOST:PORT"),
        (("local", "--time=1"), "--time has no effect with --target local: leave it out, it is of slurm."),
        (("local", "--python=/no/such"), "/no/such cannot be run"),
        (("slurm",), "sbatch is not on this machine's PATH, but twistnet.sbatch is written: submit it from where"),
        (KUBERNETES, "kubectl is not on this machine's PATH, but twistnet.trainjob.yaml is written"),
        (SKYPILOT, "sky is not on this machine's PATH, but twistnet.sky.yaml is written"),
        (("kubernetes",), "--target kubernetes needs --image"),
        (("kubernetes", "--image=a", "--namespace=a b"), "--namespace 'a b' cannot be written"),
        (
            ("kubernetes", "--image=a", "--memory=200GB"),
            "--memory '200GB' is no quantity of Kubernetes': write a number",
        ),
        (("kubernetes", "--image=a", "--mounts=/a=ImageNet"), "--mounts /a=ImageNet names no claim: Kubernetes' names"),
        (("skypilot",), "--gpus 1 have no name: add --accelerator"),
    ],
)
def test_errors_are_one_sentence(
    flags: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")
    assert launch(*flags) == 1
    (error,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("[Note]")]
    assert error.startswith(f"error: {sentence}")


def test_a_file_of_somebody_elses_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    Path("train.py").write_text("mine")
    assert launch("slurm", "--out=train.py") == 1
    assert "train.py exists and was not written by twistnet launch" in capfd.readouterr().err
    assert Path("train.py").read_text() == "mine"


def test_the_file_is_submitted_and_the_engines_exit_code_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(tmp_path / "fakes")
    monkeypatch.setenv("PATH", f"{fakes.folder}:{os.environ['PATH']}")
    fakes.add("kubectl", "sys.exit(3)")
    fakes.add("sky")
    assert launch(*KUBERNETES) == 3
    assert launch(*KUBERNETES) == 3, "a file of ours may be written again"
    assert fakes.calls("kubectl") == [["apply", "--filename", "twistnet.trainjob.yaml"]] * 2
    assert launch(*SKYPILOT) == 0
    assert launch(*SKYPILOT, "--spot", "--name=big", "--env=TOKEN", "--out=s.yaml") == 0
    assert fakes.calls("sky") == [
        ["launch", "--cluster", "twistnet", "twistnet.sky.yaml"],
        ["jobs", "launch", "--name", "big", "--secret", "TOKEN", "s.yaml"],
    ]


def test_local_trains_on_two_processes(tree: Path) -> None:
    argv = [sys.executable, "-m", "twistnet", "launch", "--target=local", "--gpus=2", "--max_restarts=0"]
    tiny = [word for word in TINY if not word.startswith(("--batch_size", "--epochs"))]
    training = [
        "pretrain",
        f"--data_dir={tree}",
        "--recipe=demo",
        *tiny,
        "--batch_size=8",
        "--epochs=1",
        "--no_publish",
    ]
    done = subprocess.run(
        [*argv, "--", *training],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Final val_acc" in done.stdout
    assert (Path("checkpoints") / "latest.pt").exists()


def test_local_nodes_that_cannot_meet_end_with_the_address(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [sys.executable, "-m", "twistnet", "launch", "--target=local", "--nodes=2", "--node_rank=0"]
    endpoint = f"localhost:{free_port()}"
    done = subprocess.run(
        [*argv, f"--rdzv_endpoint={endpoint}", "--", *COMMAND],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: rendezvous address localhost is ")
    assert capfd.readouterr() == ("", "")


def faults(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Where a value does not keep to a structural schema of Kubernetes; unknown fields are faults, as to kubectl."""
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, int) or re.fullmatch(schema.get("pattern", ".*"), str(value))
        return [] if fits else [f"{path}: {value!r}"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, types[schema["type"]]):
        return [f"{path}: {value!r} is no {schema['type']}"]
    found: list[str] = []
    if isinstance(value, dict) and "properties" in schema:
        found += [f"{path}.{key} is missing" for key in schema.get("required", ()) if key not in value]
        for key, item in value.items():
            known = schema["properties"].get(key)
            found += faults(item, known, f"{path}.{key}") if known else [f"{path}.{key} is unknown"]
    elif isinstance(value, dict) and "additionalProperties" in schema:
        for key, item in value.items():
            found += faults(item, schema["additionalProperties"], f"{path}.{key}")
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", ())
        names = [tuple(item.get(key) for key in keys) for item in value] if keys else []
        found += [f"{path} has the same {keys} twice"] if len(set(names)) < len(names) else []
        for index, item in enumerate(value):
            found += faults(item, schema["items"], f"{path}[{index}]")
    size = len(value) if isinstance(value, (str, list)) else value if isinstance(value, int) else 0
    limits = {"minLength": 1, "minimum": 1, "maxLength": -1, "maxItems": -1, "maximum": -1}
    found += [f"{path}: {key}" for key, sign in limits.items() if key in schema and sign * (size - schema[key]) < 0]
    return found


FULL = (
    *KUBERNETES,
    *("--cpus_per_gpu=8", "--memory=500Gi", "--namespace=lab", "--env=A=$(HOME) 1,TOKEN"),
    "--mounts=/data=imagenet,/out=checkpoints,/more=imagenet",
)


@pytest.mark.parametrize("flags", [KUBERNETES, FULL, ("kubernetes", "--gpus=0", "--image=a")])
def test_the_train_job_keeps_to_the_schema(flags: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert faults(file_of(capfd, *flags), SCHEMA) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda job: job["spec"].update(podTemplateOverrides=[]), ".spec.podTemplateOverrides is unknown"),
        (lambda job: job["spec"]["trainer"].update(numNodes="2"), ".spec.trainer.numNodes: '2' is no integer"),
        (lambda job: job["spec"]["runtimeRef"].clear(), ".spec.runtimeRef.name is missing"),
        (lambda job: job["spec"]["trainer"].update(command=["a"] * 129), ".spec.trainer.command: maxItems"),
        (lambda job: job["spec"]["trainer"].update(image="a" * 501), ".spec.trainer.image: maxLength"),
    ],
)
def test_the_schema_finds_faults(change: Any, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    job = file_of(capfd, *FULL)
    change(job)
    assert faults(job, SCHEMA) == [fault]


def test_the_train_job_is_the_plan(capfd: pytest.CaptureFixture[str]) -> None:
    job = file_of(capfd, *FULL)
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"] == {"name": "twistnet", "namespace": "lab"}
    spec = job["spec"]
    assert spec["runtimeRef"] == {"name": "torch-distributed"}
    trainer = spec["trainer"]
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == ("lab/twistnet:1", 2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8, "cpu": 64, "memory": "500Gi"}
    assert trainer["env"] == [
        {"name": "A", "value": "$$(HOME) 1"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "twistnet", "key": "TOKEN"}}},
    ]
    endpoint = "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)"
    assert trainer["command"][:4] == ["python", "-m", "launch.rendezvous", endpoint]
    assert f"--rdzv_endpoint={endpoint}" in trainer["command"]
    (job_patch,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job_patch["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {"/dev/shm": "shm", "/data": "volume-0", "/out": "volume-1", "/more": "volume-2"}


def test_kubernetes_replaces_nothing_in_the_users_words(capfd: pytest.CaptureFixture[str]) -> None:
    command = ("pretrain", f"--data_dir={HOSTILE}", "--model", "$(PET_MASTER_ADDR) $$ @ENDPOINT@")
    job = file_of(capfd, *KUBERNETES, command=command)
    words = job["spec"]["trainer"]["command"]
    theirs = words[words.index("twistnet") + 1 :]
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", word) for word in theirs)
    assert [word.replace("$$", "$") for word in theirs] == [*command, "--resume", "auto"]


@pytest.mark.parametrize("engine", [KUBERNETES, SKYPILOT])
def test_folders_outside_the_mounts_are_noted(engine: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    data = "[Note] --data_dir {} is in none of --mounts: it has to be there already where the job runs."
    lost = "[Note] --{} {} is in none of --mounts: the checkpoints are lost with the machines."
    for command, expected in (
        (("pretrain", "--data_dir=/data/set", "--checkpoint_dir=/runs/1"), []),
        (("pretrain", "--data_dir=/database", "--checkpoint_dir=/runs/1"), [data.format("/database")]),
        (("pretrain", "--data_dir=/data"), [lost.format("checkpoint_dir", "checkpoints")]),
        (("finetune", "--data_dir", "s3://a/b", "--run-dir", "/r"), [lost.format("run_dir", "/r")]),
    ):
        assert launch(*engine, "--dry_run", "--mounts=/data=imagenet,/runs=runs", command=command) == 0
        assert [line for line in capfd.readouterr().err.splitlines() if "[Note]" in line] == expected


def test_the_sky_task_is_the_plan(capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--spot", "--infra=aws/us-east-1", "--mounts=/data=s3://imagenet,/code=/home/me/code", "--env=A=1,TOKEN")
    task = file_of(capfd, *SKYPILOT, *flags)
    assert task["resources"] == {
        **{"infra": "aws/us-east-1", "accelerators": "H100:8", "use_spot": True},
        "job_recovery": {"max_restarts_on_errors": 3},
    }
    assert (task["name"], task["num_nodes"], task["workdir"]) == ("twistnet", 2, ".")
    assert (task["envs"], task["secrets"]) == ({"A": "1"}, {"TOKEN": None})
    assert task["file_mounts"] == {"/data": {"source": "s3://imagenet", "mode": "MOUNT"}, "/code": "/home/me/code"}
    assert task["setup"] == "pip install --editable ."


def test_the_sky_task_runs_torchrun_at_the_first_nodes_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fakes = Fakes(tmp_path / "fakes")
    fakes.add("python")
    monkeypatch.setenv("PATH", f"{fakes.folder}:{os.environ['PATH']}")
    command = ("pretrain", f"--data_dir={HOSTILE}", "--model", "\x1b[31m\ttab")
    task = file_of(capfd, *SKYPILOT, f"--env=HOSTILE={HOSTILE}", command=command)
    assert task["envs"] == {"HOSTILE": HOSTILE}
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run([bash, "-c", task["run"]], env={**os.environ, **nodes}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    endpoint = "10.0.0.1:29500"
    assert fakes.calls("python") == [
        [
            *("-m", "launch.rendezvous", endpoint, "--nodes=2", "--node_rank_from=SKYPILOT_NODE_RANK", "--"),
            *("python", "-m", "torch.distributed.run", "--nnodes=2", "--rdzv_id=twistnet", "--rdzv_backend=c10d"),
            *(f"--rdzv_endpoint={endpoint}", "--nproc_per_node=8", "--max_restarts=3"),
            *("--module", "twistnet", *command, "--resume", "auto"),
        ]
    ]
    assert not Path("injected").exists()
