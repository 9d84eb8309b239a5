"""Two hosts that lose the link between them, and then one of the two: the run goes on and ends by itself.

What is started is what `twistnet launch --target local --nodes 2` starts, with a recorder around the training.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.recorded import Taken, last_taken, lines
from launch import local
from launch.plan import Plan
from twistnet.run_folder import RunFolder

pytest_plugins = ("hosts",)
from hosts import Host  # noqa: E402

EPOCHS, STEPS_PER_EPOCH = 12, 4  # of 51 images, 16 a step
PORT = 29571  # in namespaces of its own nobody else has it
LIMIT_S = 400.0
# Torchrun's own wait minutes: a lost host is noticed after three seconds here.
MEETING = "keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=10,join_timeout=300,last_call_timeout=1"
WEIGHTS = "test_resnet_imagenet.pt"


class Run:
    """A run of one rank a host, recorded, in a folder that both see."""

    def __init__(self, root: Path, tree: Path) -> None:
        root.mkdir()
        self.root, self.folder, self.record = root, RunFolder(root / "run"), root / "record"
        often = ("--log_every=1", "--checkpoint_minutes=0", "--hang_minutes=0.25")
        tiny = ("--model=test_resnet", f"--epochs={EPOCHS}", "--size=32", "--batch_size=8", "--device=cpu")
        where = (f"--data_dir={tree}", f"--checkpoint_dir={self.folder.path}", "--resume=auto", "--no_publish")
        self._pretrain = ("pretrain", "--recipe=demo", "--workers=1", *where, *tiny, *often)

    def recorded(self, argv: Sequence[str]) -> list[str]:
        """torchrun's command with the recorder's module in place of twistnet's."""
        place = argv.index("twistnet")
        return [*argv[:place], "bench.recorded", str(self.record), *argv[place + 1 :]]

    def launched(self, host: Host, rank: int, endpoint: str) -> None:
        """Starts what `twistnet launch` makes of its flags."""
        plan = Plan(command=self._pretrain, nodes=2, gpus=0, max_restarts=100, python=sys.executable)
        argv = self.recorded(local.launch(plan, node_rank=rank, rdzv_endpoint=endpoint).argv)
        self.started(host, rank, argv)

    def elastic(self, host: Host, rank: int, endpoint: str) -> None:
        """Starts torchrun for one host or two."""
        meeting = ("--nnodes=1:2", "--rdzv_id=elastic", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}")
        plan = Plan(command=self._pretrain, gpus=0, max_restarts=100, python=sys.executable)
        self.started(host, rank, self.recorded(plan.torchrun(*meeting, f"--local_addr={host.address}")))

    def started(self, host: Host, rank: int, argv: Sequence[str]) -> None:
        conf = f"is_host={'true' if rank == 0 else 'false'},{MEETING}"
        env = {"PET_RDZV_CONF": conf, "GLOO_SOCKET_IFNAME": host.name, "OMP_NUM_THREADS": "1"}
        host.start(argv, env, self.root / f"printed.{rank}")

    def undisturbed(self) -> None:
        """Runs to the end on this machine's own network."""
        plan = Plan(command=self._pretrain, gpus=2, python=sys.executable)
        argv = self.recorded(plan.torchrun("--standalone", "--nnodes=1"))
        found = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
        assert found.returncode == 0, found.stderr

    def steps(self) -> int:
        epoch, step = last_taken(self.record) or (0, -1)
        return epoch * STEPS_PER_EPOCH + step + 1

    def begun(self) -> int:
        """How often training has begun."""
        return sum(row["kind"] == "start" for row in self.folder.rows())

    def ranks(self) -> list[int]:
        """The processes that were started last as ranks and are still there."""
        pids = [int(path.read_text() or 0) for path in self.root.glob("record-pid.*")]
        return [pid for pid in pids if is_alive(pid)]

    def weights(self) -> dict[str, Any]:
        found: dict[str, Any] = torch.load(self.folder.path / WEIGHTS, weights_only=True)
        return found

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(self.root.glob("printed.*")))


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has asked for its exit code may be there still."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: str, condition: Callable[[], object], run: Run, *tended: Host) -> None:
    """Until it is so; whatever fails meanwhile is started again."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        for host in tended:
            host.tend()
        assert time.monotonic() < end, f"waited in vain for {what}: {run.said()}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing has happened to."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "run", tree)
    run.undisturbed()
    return run


def test_a_cut_link_and_a_lost_host_change_nothing(
    hosts: tuple[Host, Host], whole: Run, tree: Path, tmp_path: Path
) -> None:
    one, other = hosts
    run = Run(tmp_path / "run", tree)
    for rank, host in enumerate(hosts):
        run.launched(host, rank, f"{one.address}:{PORT}")
    wait_for("training", lambda: run.steps() >= STEPS_PER_EPOCH, run, *hosts)
    other.link("down")
    wait_for("the ranks to notice", lambda: not run.ranks(), run, *hosts)
    assert run.steps() < EPOCHS * STEPS_PER_EPOCH
    other.link("up")
    begun, steps = run.begun(), run.steps()
    wait_for("training to go on", lambda: run.begun() > begun and run.steps() > steps, run, *hosts)
    assert run.steps() < EPOCHS * STEPS_PER_EPOCH
    other.kill()
    wait_for("the end", one.tend, run, *hosts)

    taken, expected = Taken.read(run.record), Taken.read(whole.record)
    assert not taken.differing
    assert taken.batches == expected.batches
    assert len(taken.batches) == EPOCHS * STEPS_PER_EPOCH
    weights, right = run.weights(), whole.weights()
    assert all(torch.equal(weights[name], right[name]) for name in right)
    assert run.begun() >= 3
    assert other.starts >= 2
    hang = (run.folder.path / "hang.rank0.txt").read_text()
    assert "Rank 0 has hung in" in hang


def test_the_host_that_is_left_goes_on_alone(hosts: tuple[Host, Host], whole: Run, tree: Path, tmp_path: Path) -> None:
    one, other = hosts
    run = Run(tmp_path / "run", tree)
    for rank, host in enumerate(hosts):
        run.elastic(host, rank, f"{one.address}:{PORT}")
    wait_for("both to train", lambda: run.steps() >= STEPS_PER_EPOCH and len(run.ranks()) == 2, run)
    other.kill()
    wait_for("the end", one.tend, run, one)
    assert "total batch 16 on 1 x cpu" in run.said()
    assert samples(run) == samples(whole)


def samples(run: Run) -> dict[tuple[int, int], set[tuple[Any, ...]]]:
    """What training was given in each step, however many ranks shared it."""
    found: dict[tuple[int, int], set[tuple[Any, ...]]] = {}
    for path in run.root.glob("record.*"):
        for epoch, step, given in lines(path):
            found.setdefault((epoch, step), set()).update(map(tuple, given))
    return found
