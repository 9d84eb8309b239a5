"""What is started, and on what, whatever the engine: the values that all targets share, and how torchrun is called."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME = 40  # Kubernetes makes a host name of at most 63 characters of it, with a suffix
_MARK = "Written by twistnet launch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of the entry point on some nodes.

    Attributes:
        command: the words after `twistnet`: pretrain --data_dir ...
        name: of the job; lower-case letters, digits and hyphens, at most 40.
        nodes: machines, at least 1.
        gpus: cards a node, and processes; 0 is one process without a card.
        max_restarts: how often torchrun starts a node's workers again, at least 0.
        python: the interpreter on the nodes.
        env: variables by name; one whose value is None is taken from where the job is submitted, and not written down.
        image: the container's image; None runs in the nodes' own system.
        mounts: of the container, what is mounted by the path where it is seen.
    """

    command: Sequence[str]
    name: str = "twistnet"
    nodes: int = 1
    gpus: int = 1
    max_restarts: int = 3
    python: str = "python"
    env: dict[str, str | None] = field(default_factory=dict)
    image: str | None = None
    mounts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what no engine can start.

        Raises:
            ValueError: one sentence that names the flag, its value and its limit.
        """
        if not _NAME.fullmatch(self.name) or len(self.name) > _MAX_NAME:
            raise ValueError(
                f"--name {self.name!r} is no name of a job: take at most {_MAX_NAME} lower-case letters, digits and "
                "hyphens, a letter first."
            )
        counts = (("nodes", self.nodes, 1), ("gpus", self.gpus, 0), ("max_restarts", self.max_restarts, 0))
        for flag, value, least in counts:
            if value < least:
                raise ValueError(f"--{flag} {value} is below {least}: give {least} or more.")
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"--env {name!r} is no name of a variable: write NAME=VALUE, or NAME alone.")
        for path, source in self.mounts.items():
            _check_mount(path, source)
        for text in (*self.command, *self.env.values(), self.python, self.image):
            if text and "\0" in text:
                raise ValueError(f"{text!r} holds a null character, which no command line can carry: leave it out.")

    @property
    def processes(self) -> int:
        """Processes a node."""
        return max(self.gpus, 1)

    @property
    def values(self) -> dict[str, str]:
        """The variables whose values are written down."""
        return {name: value for name, value in self.env.items() if value is not None}

    @property
    def inherited(self) -> list[str]:
        """The variables whose values are taken from where the job is submitted."""
        return [name for name, value in self.env.items() if value is None]

    def sees(self, path: str) -> bool:
        """Whether a path, as the command has it, lies in one of the mounts."""
        return any(Path(path).is_relative_to(mount) for mount in self.mounts)

    def torchrun(self, *where: str) -> list[str]:
        """The one entry point of all targets: `torchrun ... -m twistnet <command>`.

        Args:
            where: torchrun's flags that say how many nodes there are and how they meet.
        """
        return [
            *(self.python, "-m", "torch.distributed.run", *where),
            *(f"--nproc_per_node={self.processes}", f"--max_restarts={self.max_restarts}"),
            *("--module", "twistnet", *self.command),
        ]

    def checked(self, nodes: str, endpoint: str, run_id: str, *rank: str) -> list[str]:
        """torchrun by c10d rendezvous, behind the check that the nodes reach each other.

        Args:
            nodes: how many, or what the engine replaces by it.
            endpoint: host:port of the first node, or what the engine replaces by it.
            run_id: what tells this run from others at the same endpoint.
            rank: flags of the check that say which node this is.
        """
        meeting = (f"--rdzv_id={run_id}", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}")
        check = [self.python, "-m", "launch.rendezvous", endpoint, f"--nodes={nodes}", *rank, "--"]
        return [*check, *self.torchrun(f"--nnodes={nodes}", *meeting)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a target makes of a plan.

    Attributes:
        argv: the command that starts or submits it.
        file: what the command reads; None for none.
        text: the file's content.
        notes: sentences for the user.
    """

    argv: Sequence[str]
    file: Path | None = None
    text: str = ""
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """The exact file and command, as --dry_run prints them."""
        shown = f"{self.file}:\n\n{self.text}\n" if self.file else ""
        return f"{shown}{shlex.join(self.argv)}"

    def is_ours(self) -> bool:
        """Whether the file may be written: it is not there yet, or this program wrote it."""
        if self.file is None or not self.file.exists():
            return True
        return self.file.is_file() and _MARK.encode() in self.file.read_bytes()[:500]


def headline(launch_argv: Sequence[str]) -> str:
    """The comment at the top of a file, by which `is_ours` knows it again; a name with a line break would end it."""
    command = shlex.join(launch_argv)
    return f"# {_MARK}. To submit it: {command}" if command.isprintable() else f"# {_MARK}."


def one_word(flag: str, value: str) -> str:
    """The value, which goes where nothing can be quoted.

    Raises:
        ValueError: it holds a space, a quote or another sign that would be read as something else.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.,:@+/=%-]+", value):
        raise ValueError(
            f"--{flag} {value!r} cannot be written into the file: take letters, digits and _.,:@+/=%- alone."
        )
    return value


def _check_mount(path: str, source: str) -> None:
    one_word("mounts", path)
    one_word("mounts", source)
    if not path.startswith("/") or "," in path + source:
        raise ValueError(f"--mounts {path}={source} has no absolute path: write /PATH/IN/THE/CONTAINER=SOURCE.")
