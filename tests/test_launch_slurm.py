"""The batch file for SLURM, run by bash with programs that stand for SLURM's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launches import COMMAND, HOSTILE, Fakes, launch

BASH = shutil.which("bash")
JOB = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2"}


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """SLURM's programs on PATH, and a working directory of the test's own."""
    made = Fakes(tmp_path / "fakes")
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    return made


def written(fakes: Fakes, *flags: str, command: tuple[str, ...] = COMMAND) -> Path:
    """The file that is submitted by a fake sbatch."""
    fakes.add("sbatch")
    python = f"--python={fakes.folder}/python"
    assert launch("slurm", "--nodes=2", "--gpus=4", "--cpus_per_gpu=8", python, *flags, command=command) == 0
    return Path("twistnet.sbatch")


def start(file: Path, **environ: str) -> subprocess.Popen[str]:
    """The batch script, as slurmd starts it on a node."""
    assert BASH
    return subprocess.Popen(
        [BASH, str(file)],
        env={**os.environ, **JOB, "FAKE_ADDRESS": "10.1.2.3", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def requeued(fakes: Fakes) -> bool:
    return ["requeue", "Incomplete", "123456"] in fakes.calls("scontrol")


def test_the_file_asks_for_one_task_a_node_a_signal_ahead_of_the_end_and_requeueing(fakes: Fakes) -> None:
    lines = written(fakes, "--time=1-00:00:00", "--partition=gpu", "--account=lab").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert asked == {
        *("--job-name=twistnet", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=32"),
        *("--partition=gpu", "--account=lab", "--time=1-00:00:00", "--signal=B:USR1@120", "--requeue"),
        *("--open-mode=append", "--output=twistnet-%j.out"),
    }
    assert fakes.calls("sbatch") == [["twistnet.sbatch"]]


def test_bash_and_shellcheck_find_nothing_wrong(fakes: Fakes) -> None:
    file = written(fakes, "--env=A=1,B", "--image=lab/twistnet:1", "--mounts=/data=/scratch/data")
    assert BASH
    subprocess.run([BASH, "-n", str(file)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(file)], check=True)


def test_the_nodes_meet_on_the_first_compute_node(fakes: Fakes) -> None:
    assert finished(start(written(fakes), FAKE_CODE="0")) == (0, "", "")
    asking, running = fakes.calls("srun")
    assert asking == ["--nodes=1", "--ntasks=1", "--nodelist=first", "hostname", "--ip-address"]
    assert running[:5] == [
        *("--kill-on-bad-exit=1", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=32"),
    ]
    endpoint = "10.1.2.3:23456"
    assert fakes.calls("python") == [
        [
            *("-m", "launch.rendezvous", endpoint, "--nodes=2", "--node_rank_from=SLURM_NODEID", "--"),
            *(f"{fakes.folder}/python", "-m", "torch.distributed.run", "--nnodes=2", "--rdzv_id=123456"),
            *("--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}", "--nproc_per_node=4", "--max_restarts=3"),
            *("--module", "twistnet", *COMMAND, "--resume", "auto"),
        ]
    ]
    assert not requeued(fakes), "a finished job is not requeued"


@pytest.mark.parametrize(("number", "name"), [(signal.SIGUSR1, "USR1"), (signal.SIGTERM, "TERM")])
def test_a_signal_to_the_batch_shell_stops_the_workers_and_requeues(
    fakes: Fakes, number: signal.Signals, name: str
) -> None:
    process = start(written(fakes))
    wait_for(Path("task.pid"))
    while not fakes.calls("python"):
        time.sleep(0.02)
    time.sleep(0.2)  # until the task has set its handler
    process.send_signal(number)
    code, out, err = finished(process)
    assert (code, err) == (143, "")
    assert f"SIG{name} came" in out
    assert fakes.calls("scancel") == [["--signal=TERM", "123456"]]
    assert requeued(fakes)


def test_a_second_signal_while_the_workers_save_changes_nothing(fakes: Fakes) -> None:
    saving = (
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), os._exit(143)))\ntime.sleep(60)"
    )
    fakes.add("python", saving)
    process = start(written(fakes))
    wait_for(Path("task.pid"))
    while not fakes.calls("python"):
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 143
    assert requeued(fakes)


@pytest.mark.parametrize(
    ("environ", "code", "again"),
    [
        ({"FAKE_CODE": "1"}, 1, False),
        ({"FAKE_CODE": "1", "FAKE_PREEMPTED": "2026-01-01T00:00:00"}, 1, True),
        ({"FAKE_CODE": "0", "FAKE_PREEMPTED": "2026-01-01T00:00:00"}, 0, False),
    ],
)
def test_only_what_was_stopped_is_requeued(fakes: Fakes, environ: dict[str, str], code: int, again: bool) -> None:
    assert finished(start(written(fakes), **environ))[0] == code
    assert requeued(fakes) is again


@pytest.mark.parametrize("address", ["127.0.1.1", "::1", "127.0.0.1\n::1"])
def test_a_loopback_address_of_the_first_node_is_refused(fakes: Fakes, address: str) -> None:
    code, out, err = finished(start(written(fakes), FAKE_ADDRESS=address))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: rendezvous address first is {address} on first itself, a loopback address")
    assert fakes.calls("python") == []


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"FAKE_ADDRESS": "::1 127.0.1.1 10.0.0.7"}, "10.0.0.7:23456"),
        ({"FAKE_ADDRESS": "127.0.1.1", "SLURM_NNODES": "1"}, "127.0.0.1:23456"),
    ],
)
def test_the_address_is_the_first_that_others_reach(fakes: Fakes, environ: dict[str, str], endpoint: str) -> None:
    assert finished(start(written(fakes), FAKE_CODE="0", **environ))[0] == 0
    assert fakes.calls("python")[0][2] == endpoint


def test_hostile_words_reach_the_command_as_they_are(fakes: Fakes) -> None:
    command = ("pretrain", f"--data_dir={HOSTILE}", "--model", HOSTILE)
    shown = "\nopen('seen', 'w').write(os.environ['HOSTILE'])"
    fakes.add("python", shown)
    file = written(fakes, f"--env=HOSTILE={HOSTILE}", f"--image={HOSTILE}", command=command)
    assert finished(start(file)) == (0, "", "")
    words = fakes.calls("python")[0]
    assert words[words.index("twistnet") + 1 :] == [*command, "--resume", "auto"]
    assert f"--container-image={HOSTILE}" in fakes.calls("srun")[1]
    assert Path("seen").read_text() == HOSTILE
    assert not Path("injected").exists()


def test_a_file_name_with_a_line_break_adds_no_line_to_the_file(fakes: Fakes) -> None:
    fakes.add("sbatch")
    name = "x\ntouch injected\n"
    assert launch("slurm", f"--out={name}", f"--python={fakes.folder}/python") == 0
    assert fakes.calls("sbatch") == [[name]]
    assert finished(start(Path(name), FAKE_CODE="0"))[0] == 0
    assert not Path("injected").exists()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--partition=gpu\n#SBATCH --exclusive", "--partition 'gpu\\n#SBATCH --exclusive' cannot be written"),
        ("--account=a b", "--account 'a b' cannot be written"),
        ("--memory=1;2", "--memory '1;2' is no size of SLURM's: write a whole number and K, M, G or T, as 200G."),
        ("--memory=200Gi", "--memory '200Gi' is no size of SLURM's"),
        ("--time=foo", "--time 'foo' is no limit of SLURM's: write HH:MM:SS or DAYS-HH:MM:SS, as 24:00:00."),
        ("--time=1:2:3:4", "--time '1:2:3:4' is no limit of SLURM's"),
        ("--cpus_per_gpu=0", "--cpus_per_gpu 0 is below 1"),
        ("--mounts=/a=b", "--mounts are of a container"),
        ("--mounts=/a b=c", "--mounts '/a b' cannot be written"),
        ("--mounts=a=b", "--mounts a=b has no absolute path"),
        ("--mounts=/a", "--mounts '/a' is not one PATH=SOURCE"),
        ("--spot", "--spot has no effect with --target slurm"),
        ("--name=a\nb", "--name 'a\\nb' is no name of a job"),
        ("--env=A B=1", "--env 'A B' is no name of a variable"),
        ("--env=A=1,A=2", "--env gives A twice"),
        ("--nodes=0", "--nodes 0 is below 1"),
        ("--max_restarts=-1", "--max_restarts -1 is below 0"),
    ],
)
def test_what_cannot_stand_in_the_file_is_refused(
    fakes: Fakes, flag: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fakes.add("sbatch")
    assert launch("slurm", flag) == 1
    assert capfd.readouterr().err.startswith(f"error: {sentence}")
    assert fakes.calls("sbatch") == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("time", ["90", "90:00", "24:00:00", "2-12", "2-12:30", "2-00:00:00", "UNLIMITED"])
def test_every_way_to_write_a_limit_is_taken(fakes: Fakes, time: str) -> None:
    assert f"#SBATCH --time={time}" in written(fakes, f"--time={time}", "--memory=200G").read_text().splitlines()


def test_cores_that_nobody_asked_for_are_noted(fakes: Fakes, capfd: pytest.CaptureFixture[str]) -> None:
    note = "[Note] Without --cpus_per_gpu SLURM gives the 8 processes of a node its own number of cores, which is often"
    for flags, noted in ((["--gpus=8"], True), (["--gpus=8", "--cpus_per_gpu=12"], False), (["--gpus=1"], False)):
        fakes.add("sbatch")
        assert launch("slurm", *flags) == 0
        assert (note in capfd.readouterr().err) == noted


def test_a_variable_without_a_value_is_not_written_down_but_wanted(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    file = written(fakes, "--env=TOKEN")
    assert "secret" not in file.read_text()
    assert finished(start(file, FAKE_CODE="0"))[0] == 0
    monkeypatch.delenv("TOKEN")
    code, _, err = finished(start(file, FAKE_CODE="0"))
    assert code != 0
    assert "TOKEN: is not in the environment of sbatch" in err
