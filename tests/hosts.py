"""Hosts with an address of their own on this machine: network namespaces that a cable joins.

A test module takes the fixture by `pytest_plugins = ("hosts",)`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

ADDRESSES = ("10.213.71.1", "10.213.71.2")


class Host:
    """A network namespace, and what runs in it.

    Attributes:
        name: of the namespace, and of its end of the cable.
        address: which the other one reaches it by.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self._command: Sequence[str] = ()
        self._env: dict[str, str] = {}
        self._printed = Path(os.devnull)
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self, command: Sequence[str], env: Mapping[str, str], printed: Path) -> None:
        """Starts a command that `tend` starts again."""
        self._command, self._env, self._printed = command, os.environ | env, printed
        self._start()

    def tend(self) -> bool:
        """Whether the command is done; where it has failed, it is started again, as Kubernetes would."""
        assert self.process is not None
        code = self.process.poll()
        if code:
            self._start()
        return code == 0

    def kill(self) -> None:
        """Ends every process on the host at once."""
        for pid in ip("netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def link(self, state: str) -> None:
        """Sets its end of the cable "up" or "down": the other end sees no carrier, and nobody a closed connection."""
        ip("-netns", self.name, "link", "set", self.name, state)

    def _start(self) -> None:
        self.starts += 1
        with self._printed.open("ab") as printed:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *self._command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def ip(*words: str) -> str:
    """What the program prints; CalledProcessError where it fails."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two of them, joined; the test is skipped where they cannot be made."""
    one, other = (Host(f"twist{os.getpid()}{end}", address) for end, address in zip("ab", ADDRESSES, strict=True))
    with contextlib.ExitStack() as ending:
        try:
            for host in (one, other):
                ip("netns", "add", host.name)
                ending.callback(ip, "netns", "delete", host.name)
                ending.callback(host.kill)
            ip("link", "add", one.name, "netns", one.name, "type", "veth", "peer", other.name, "netns", other.name)
            for host in (one, other):
                ip("-netns", host.name, "address", "add", f"{host.address}/24", "dev", host.name)
                ip("-netns", host.name, "link", "set", "lo", "up")
                host.link("up")
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"two hosts take iproute2 and the rights to make network namespaces: {reason.strip()}")
        yield one, other
