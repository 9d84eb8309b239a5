"""Nodes that cannot meet say so at once or within the limit, and quote the address."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import free_port

from launch import rendezvous
from launch.rendezvous import check, main, parse_endpoint

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = "198.51.100.7"  # of a block that no machine has


def own_address() -> str:
    """An IPv4 address of this machine that other machines could reach; the test is skipped where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((FOREIGN, 9))  # sends nothing, but chooses an interface
        except OSError:
            pytest.skip("this machine has no network but its own loopback")
        address: str = asking.getsockname()[0]
    return address


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("node-1:29500", ("node-1", 29500)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::2]:29500", ("fd00::2", 29500)),
        *((wrong, None) for wrong in ("node-1", "node-1:", ":29500", "node-1:0", "node-1:65536", "a b:1", "a\n:1", "")),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(endpoint: str, expected: tuple[str, int] | None) -> None:
    if expected:
        assert parse_endpoint(endpoint) == expected
        return
    with pytest.raises(ValueError, match=r"is not HOST:PORT with a port of 1 to 65535: write both\.$"):
        parse_endpoint(endpoint)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_that_cannot_be_resolved_is_quoted(rank: int) -> None:
    before = time.monotonic()
    with pytest.raises(ValueError, match=r"rendezvous address node-7\.invalid cannot be resolved on this node: "):
        check("node-7.invalid:29500", nodes=2, node_rank=rank)
    assert time.monotonic() - before < 60


def test_a_name_that_the_name_server_learns_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def late(host: str, *rest: int, **named: int) -> object:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    assert check(f"late:{free_port()}", nodes=1, node_rank=0, wait_for_name=True)["PET_LOCAL_ADDR"] == "127.0.0.1"
    assert asked == ["late"] * 3
    asked.clear()
    with pytest.raises(ValueError, match="rendezvous address late cannot be resolved"):
        check(f"late:{free_port()}", nodes=1, node_rank=0)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.0.1.1"])
def test_loopback_is_refused_where_there_are_several_nodes(host: str, rank: int) -> None:
    with pytest.raises(ValueError, match="a loopback address that no other node reaches") as caught:
        check(f"{host}:29500", nodes=2, node_rank=rank)
    assert host.strip("[]") in str(caught.value)


def test_node_0_must_own_the_address() -> None:
    with pytest.raises(
        ValueError, match=f"rendezvous address {FOREIGN} is {FOREIGN}, which is no address of this machine"
    ):
        check(f"{FOREIGN}:29500", nodes=2, node_rank=0)


def test_a_port_that_another_program_has_is_named_on_node_0() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"rendezvous port {port} of 127\.0\.0\.1 is taken"):
            check(f"127.0.0.1:{port}", nodes=1, node_rank=0)


def test_an_endpoint_where_nobody_listens_is_given_up_after_the_limit_and_quoted() -> None:
    endpoint = f"{own_address()}:{free_port()}"
    before = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"rendezvous at {endpoint} .* was not reached within 1 s \(connection refused\)"
    ):
        check(endpoint, nodes=2, node_rank=1, limit_s=1.0)
    assert time.monotonic() - before < 10


def test_node_0_gives_up_where_nobody_comes_and_quotes_the_endpoint() -> None:
    endpoint = f"{own_address()}:{free_port()}"
    before = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"rendezvous at {endpoint} was not reached by node 1, 2 within 1 s: check that the 3 nodes"
    ):
        check(endpoint, nodes=3, node_rank=0, limit_s=1.0)
    assert time.monotonic() - before < 10


def test_a_node_that_lacks_is_named_on_all_that_are_there() -> None:
    endpoint = f"{own_address()}:{free_port()}"

    def here(rank: int) -> str:
        with pytest.raises(ValueError, match=f"^rendezvous at {endpoint} ") as caught:
            check(endpoint, nodes=3, node_rank=rank, limit_s=3.0)
        return str(caught.value)

    with ThreadPoolExecutor(2) as threads:
        said = list(threads.map(here, (0, 2)))
    assert "was not reached by node 1 within 3 s" in said[0]
    assert "(node 0 is there, and waits for others that do not come)" in said[1] or "(node 0 ended there)" in said[1]


def test_nodes_go_on_together_and_one_that_is_started_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else knocks at the port meanwhile, and a node that was started, ended and started again."""
    monkeypatch.setattr(rendezvous, "_SILENCE_S", 0.3)
    address, port = own_address(), free_port()
    endpoint = f"{address}:{port}"
    with ThreadPoolExecutor(3) as threads, socket.socket() as store:
        host = threads.submit(check, endpoint, nodes=3, node_rank=0, limit_s=30)
        knock(address, port, b"")
        knock(address, port, b"GET / HTTP/1.1\n")
        knock(address, port, b"7\n")
        knock(address, port, b"2\n")  # a first node 2, which ends
        other = threads.submit(check, endpoint, nodes=3, node_rank=1, limit_s=30)
        time.sleep(1)
        assert not host.done(), "node 2 is not there"
        last = threads.submit(check, endpoint, nodes=3, node_rank=2, limit_s=30)
        assert host.result(30)["PET_RDZV_CONF"] == "is_host=true"
        time.sleep(0.5)
        assert not other.done(), "the store of node 0 is not there yet"
        assert not last.done(), "likewise"
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        store.bind((address, port))
        store.listen()
        for node in (other, last):
            assert node.result(30)["PET_LOCAL_ADDR"] == address
        assert check(endpoint, nodes=3, node_rank=1, limit_s=5)["PET_RDZV_CONF"] == "is_host=false"


def knock(address: str, port: int, said: bytes, held: contextlib.ExitStack | None = None) -> None:
    """Connects as another node does, says that, and goes; or stays until the stack ends."""
    deadline = time.monotonic() + 20
    with contextlib.ExitStack() as going:
        while time.monotonic() < deadline:
            one = (held or going).enter_context(socket.socket())
            if one.connect_ex((address, port)) == 0:
                one.sendall(said)
                one.settimeout(10)
                assert one.recv(len(rendezvous._HELLO)) == rendezvous._HELLO
                return
            time.sleep(0.05)
    pytest.fail("node 0 does not listen")


def test_the_limit_is_under_two_minutes() -> None:
    assert rendezvous.LIMIT_S + rendezvous._ATTEMPT_S < 120


def test_a_host_that_starts_later_is_waited_for() -> None:
    address, port = own_address(), free_port()
    listening = socket.socket()

    def start() -> None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()

    timer = threading.Timer(1.0, start)
    timer.start()
    try:
        found = check(f"{address}:{port}", nodes=2, node_rank=1, limit_s=30)
    finally:
        timer.join()
        listening.close()
    assert found["PET_RDZV_CONF"] == "is_host=false"
    assert found["PET_LOCAL_ADDR"] == address
    assert found["GLOO_SOCKET_IFNAME"] in {name for _, name in socket.if_nameindex()}


def test_node_0_is_told_to_be_the_host_at_its_own_address() -> None:
    address, port = own_address(), free_port()
    with ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as held:
        checking = threads.submit(check, f"{address}:{port}", nodes=2, node_rank=0, limit_s=30)
        knock(address, port, b"1\n", held)
        found = checking.result(30)
    assert (found["PET_RDZV_CONF"], found["PET_LOCAL_ADDR"]) == ("is_host=true", address)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a:1", "--nodes=2", "--node_rank=2"], "node rank 2 is not among the 2 nodes: give 0 to 1."),
        (["a:1", "--nodes=2", "--node_rank_from=NO_SUCH"], "NO_SUCH is '', which is no number of a node"),
        (["a", "--nodes=2", "--node_rank=0"], "rendezvous endpoint 'a' is not HOST:PORT"),
        (["127.0.0.1:1", "--nodes=2", "--node_rank=0", "--", "true"], "rendezvous address 127.0.0.1 is 127.0.0.1"),
    ],
)
def test_the_program_ends_with_one_sentence(argv: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_the_command_takes_the_place_of_the_check_and_what_the_user_has_set_stays() -> None:
    shown = "import os; print(os.getpid(), os.environ['PET_RDZV_CONF'], os.environ['GLOO_SOCKET_IFNAME'])"
    argv = [sys.executable, "-m", "launch.rendezvous", f"127.0.0.1:{free_port()}", "--nodes=1", "--node_rank_from=NODE"]
    process = subprocess.Popen(
        [*argv, "--", sys.executable, "-c", shown],
        cwd=ROOT,
        env={**os.environ, "NODE": "0", "GLOO_SOCKET_IFNAME": "mine"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.communicate(timeout=60)[0] == f"{process.pid} is_host=true mine\n"
    assert process.returncode == 0


def test_a_command_that_is_missing_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    argv = [f"127.0.0.1:{free_port()}", "--nodes=1", "--node_rank=0"]
    assert main(argv) == 0
    assert main([*argv, "--", "/no/such/program"]) == 1
    assert capfd.readouterr().err.startswith("error: /no/such/program cannot be run (No such file or directory)")


def test_two_torchruns_meet_where_the_check_says(tmp_path: Path) -> None:
    """Two nodes on this machine, at its own address: one process each, one sum over both."""
    script = tmp_path / "sum.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "print(f'rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}')\n"
        "dist.destroy_process_group()\n"
    )
    endpoint = f"{own_address()}:{free_port()}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_id=sum"]
    torchrun += ["--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}", str(script)]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "launch.rendezvous", endpoint, "--nodes=2", f"--node_rank={rank}", "--", *torchrun],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    ended = [node.communicate(timeout=180) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ended
    assert sorted(out for out, _ in ended) == ["rank 0 of 2: 2\n", "rank 1 of 2: 2\n"]
