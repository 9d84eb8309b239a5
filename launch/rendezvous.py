"""Whether the nodes of a run can meet, found out before torchrun is started, which would wait for many minutes.

    python -m launch.rendezvous HOST:PORT --nodes 2 --node_rank 0 -- python -m torch.distributed.run ...

Node 0 holds HOST against its own addresses and listens there until all others have said which node they are:

    node 0                                another node
    listens, says who it is               connects
    has heard all: tells them             says its rank, waits to be told
    torchrun, whose store listens         connects again, until the listener waits to be asked: that is the store

One that comes later, because it is started again, meets the store at once. Then the command after `--` takes the place
of this process. It is told by the environment what torchrun and gloo would otherwise take from the host's name, which
is a loopback address on many machines: whether this node is the host, and which of its addresses the others see.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence

LIMIT_S = 100.0
_PAUSE_S = 0.5
_ATTEMPT_S = 5.0
_SILENCE_S = 2.0  # after which a listener is torchrun's store, which speaks only when it is asked
_STORE_S = 60.0  # that torchrun may take to listen, once all are there
_HELLO, _GO = b"twistnet: which node?\n", b"go\n"
_SIOCGIFADDR = 0x8915  # of Linux: the IPv4 address of an interface


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[IPv6 address]:port`.

    Raises:
        ValueError: one sentence, where it is neither.
    """
    host, _, port = endpoint.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    numbered = port.isascii() and port.isdigit() and 0 < int(port) < 2**16
    if not host or not numbered or any(sign.isspace() or not sign.isprintable() for sign in host):
        raise ValueError(f"rendezvous endpoint {endpoint!r} is not HOST:PORT with a port of 1 to 65535: write both.")
    return host, int(port)


def check(
    endpoint: str, *, nodes: int, node_rank: int, limit_s: float = LIMIT_S, wait_for_name: bool = False
) -> dict[str, str]:
    """Finds out whether this node can meet the others at the endpoint.

    Args:
        endpoint: host:port of node 0, the same on all nodes.
        nodes: of the run, at least 1.
        node_rank: which of them this one is; 0 is the host.
        limit_s: seconds that node 0 waits for the others, and each of them for it.
        wait_for_name: wait as long for the name, which a cluster's name server may learn late.

    Returns:
        The environment variables for torchrun: who the host is and this node's own address.

    Raises:
        ValueError: one sentence that quotes the endpoint: it cannot be resolved or reached in time, is a loopback
            address where there are several nodes, or on node 0 is not this machine's own, or nobody comes there.
    """
    host, port = parse_endpoint(endpoint)
    if not 0 <= node_rank < nodes:
        raise ValueError(f"node rank {node_rank} is not among the {nodes} nodes: give 0 to {nodes - 1}.")
    end = time.monotonic() + limit_s
    families = _resolved(host, port, end if wait_for_name else 0.0)
    addresses = [address[0] for _, address in families]
    if nodes > 1 and any(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses):
        raise ValueError(
            f"rendezvous address {host} is {addresses[0]} on this node, a loopback address that no other node reaches: "
            "give the name or address that the network knows node 0 by."
        )
    if node_rank == 0:
        own, family = _own(host, port, families)
        if nodes > 1:
            _gather(endpoint, family, (own, port), nodes, end, limit_s)
    else:
        own = _reached(endpoint, families, node_rank, end, limit_s)
    interface = _interface(own)
    return {
        "PET_RDZV_CONF": f"is_host={'true' if node_rank == 0 else 'false'}",
        "PET_LOCAL_ADDR": own,
        **({"GLOO_SOCKET_IFNAME": interface} if interface else {}),
    }


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Checks, and runs the command after `--` in place of this process.

    Args:
        argv: the arguments; None takes the process's.
        environ: the environment variables.

    Returns:
        0 where all is well and there is no command; 1 after an error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    ends = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:ends])
    command = words[ends + 1 :]
    try:
        found = check(
            options.endpoint,
            nodes=options.nodes,
            node_rank=_rank(options.node_rank, options.node_rank_from, environ),
            limit_s=options.limit_s,
            wait_for_name=options.wait_for_name,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not command:
        return 0
    try:
        os.execvpe(command[0], command, {**found, **environ})  # what the user has set counts
    except OSError as error:
        print(f"error: {command[0]} cannot be run ({error.strerror}): check its path on this node.", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.rendezvous",
        description="Checks that this node can meet the others, then runs the command after --.",
        allow_abbrev=False,
    )
    parser.add_argument("endpoint", help="host:port of node 0")
    parser.add_argument("--nodes", type=int, required=True, help="how many there are")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node_rank", type=int, help="which of them this is, from 0")
    which.add_argument("--node_rank_from", metavar="NAME", help="environment variable that says which this is")
    parser.add_argument("--limit_s", type=float, default=LIMIT_S, help="seconds to wait for node 0")
    parser.add_argument("--wait_for_name", action="store_true", help="wait for the name to be known, too")
    return parser


def _rank(rank: int | None, variable: str | None, environ: Mapping[str, str]) -> int:
    if rank is not None:
        return rank
    text = environ.get(variable or "", "")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            f"{variable} is {text!r}, which is no number of a node: start this by the engine that sets it."
        )
    return int(text)


def _resolved(host: str, port: int, end: float) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a name, IPv4 first; asks again for an unknown name until `end` of the monotonic clock."""
    while True:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            if time.monotonic() < end:
                time.sleep(_PAUSE_S)
                continue
            reason = error.strerror if isinstance(error, socket.gaierror) else "it is no name of a host"
            raise ValueError(
                f"rendezvous address {host} cannot be resolved on this node: {reason}; check the name, "
                "or give the address."
            ) from None
        pairs = [(item[0], (str(item[4][0]), port)) for item in found]
        return sorted(pairs, key=lambda pair: pair[0] != socket.AF_INET)


def _own(
    host: str, port: int, families: Sequence[tuple[socket.AddressFamily, tuple[str, int]]]
) -> tuple[str, socket.AddressFamily]:
    """The first of the addresses that is this machine's own; to bind to it is to ask for it."""
    taken = False
    for family, (address, _) in families:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former run may linger
            try:
                probe.bind((address, port))
                return address, family
            except OSError as error:
                taken = taken or error.errno == errno.EADDRINUSE
    if taken:
        raise ValueError(
            f"rendezvous port {port} of {host} is taken by another program on node 0: choose another port."
        )
    raise ValueError(
        f"rendezvous address {host} is {families[0][1][0]}, which is no address of this machine, node 0: give the "
        "name or address of the node that has rank 0."
    )


def _gather(
    endpoint: str, family: socket.AddressFamily, address: tuple[str, int], nodes: int, end: float, limit_s: float
) -> None:
    """On node 0: until every other node has said that it is there; then tells them to go on."""
    came: set[int] = set()  # and may have given up since
    here: dict[int, socket.socket] = {}
    connected: list[socket.socket] = []
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        while len(here) < nodes - 1:
            if time.monotonic() >= end:
                others = range(1, nodes)
                never = [str(rank) for rank in others if rank not in came]
                missing = ", ".join(never or [str(rank) for rank in others if rank not in here])
                raise ValueError(
                    f"rendezvous at {endpoint} was not reached by node {missing} within {limit_s:g} s: check that the "
                    f"{nodes} nodes have been started with this endpoint and that no firewall closes the port."
                )
            for one in select.select([listener, *connected], [], [], _PAUSE_S)[0]:
                if one is listener:
                    other, _ = listener.accept()
                    connected.append(other)
                    other.settimeout(_SILENCE_S)
                    _say(other, _HELLO)
                    continue
                rank = _rank_said(one, nodes)
                if rank is None:  # it has ended, or is none of ours
                    here = {rank: each for rank, each in here.items() if each is not one}
                    connected.remove(one)
                    one.close()
                else:
                    here[rank] = one
                    came.add(rank)
        for other in here.values():
            _say(other, _GO)
    finally:
        for each in (listener, *connected):
            each.close()


def _rank_said(other: socket.socket, nodes: int) -> int | None:
    text = _heard(other, 16).strip()
    return int(text) if text.isdigit() and 0 < int(text) < nodes else None


def _say(other: socket.socket, what: bytes) -> None:
    try:
        other.sendall(what)
    except OSError:
        return  # it has gone, which is noticed where it is listened to


def _heard(other: socket.socket, size: int) -> bytes:
    """What the other says; nothing where it has gone."""
    try:
        return other.recv(size)
    except TimeoutError:
        raise
    except OSError:
        return b""


def _reached(
    endpoint: str,
    families: Sequence[tuple[socket.AddressFamily, tuple[str, int]]],
    node_rank: int,
    end: float,
    limit_s: float,
) -> str:
    """This node's address as the host sees it, once all nodes are there and the host's store listens."""
    reason = "nobody listens there"
    while True:
        for family, address in families:
            left = end - time.monotonic()
            with socket.socket(family, socket.SOCK_STREAM) as attempt:
                attempt.settimeout(max(min(left, _ATTEMPT_S), 0.05))
                try:
                    attempt.connect(address)
                except TimeoutError:
                    reason = "no answer"
                    continue
                except OSError as error:
                    reason = (error.strerror or "no answer").lower()
                    continue
                attempt.settimeout(_SILENCE_S)
                try:
                    hello = _heard(attempt, len(_HELLO))
                except TimeoutError:
                    return str(attempt.getsockname()[0])
                if hello != _HELLO:
                    reason = "another program answers there" if hello else "node 0 ended there"
                    continue
                if _is_told(attempt, node_rank, end):
                    end = max(end, time.monotonic() + _STORE_S)
                    reason = "its torchrun does not listen"
                else:
                    reason = "node 0 is there, and waits for others that do not come"
        if time.monotonic() + _PAUSE_S >= end:
            raise ValueError(
                f"rendezvous at {endpoint} ({families[0][1][0]}) was not reached within {limit_s:g} s ({reason}): "
                "check that node 0 has been started there and that no firewall closes the port."
            )
        time.sleep(_PAUSE_S)


def _is_told(host: socket.socket, node_rank: int, end: float) -> bool:
    """Whether node 0 says that all are there, before the end or its own."""
    host.settimeout(max(end - time.monotonic(), 0.05))
    _say(host, b"%d\n" % node_rank)
    try:
        return _heard(host, len(_GO)) == _GO
    except TimeoutError:
        return False


def _interface(address: str) -> str | None:
    """The network interface with this IPv4 address; None where there is none, as for IPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


if __name__ == "__main__":
    sys.exit(main())
