"""`twistnet doctor`."""

from __future__ import annotations

import dataclasses
import textwrap
from json import dumps

from twistnet.cli import WIDTH
from twistnet.doctor import GIB, concerns, install_command, is_usable
from twistnet.machine import OPTIONAL, Card, Facts, Package, collect


def doctor(*, json: bool = False) -> int:
    """Says what is installed, what this machine has and what it lacks.

    Ends with what a run here would be refused or slowed by, each with the next step. The exit code is 1 where a
    package that everything needs is missing, broken or too old, and 0 otherwise.

    Args:
        json: print the facts as JSON instead, sizes in bytes.
    """
    facts = collect()
    print(as_json(facts) if json else as_text(facts))
    return 0 if is_usable(facts) else 1


def as_json(facts: Facts) -> str:
    """The facts and the concerns as one JSON object."""
    return dumps({**dataclasses.asdict(facts), "concerns": concerns(facts)}, indent=2)


def as_text(facts: Facts) -> str:
    """The facts as a table, then the concerns."""
    machine = [
        *((f"card {index}", _card(card)) for index, card in enumerate(facts.cards)),
        *([] if facts.cards else [("cards", "none")]),
        ("NVIDIA driver", facts.driver or "none"),
        ("torch built for", f"CUDA {facts.cuda_build}" if facts.cuda_build else "the CPU"),
        ("CPU bf16", "yes" if facts.cpu_bf16 else "no"),
        ("cores", f"{facts.usable_cores} usable of {facts.cores}"),
        ("memory", _size(facts.memory_bytes)),
        ("shared memory", _size(facts.shared_memory_bytes)),
        ("free disk", f"{_size(facts.disk_free_bytes)} in {facts.disk_path}"),
        ("open files", f"{facts.open_files:,}" if facts.open_files >= 0 else "no limit"),
        ("C++ compiler", facts.compiler or "none"),
        ("libjpeg-turbo", facts.libjpeg_turbo or "no headers"),
        ("native decoder", "not built" if facts.native_lacks else "built"),
    ]
    installed = [
        ("twistnet", facts.twistnet),
        ("python", f"{facts.python} on {facts.system}"),
        *((package.name, _package(package)) for package in facts.packages),
    ]
    lines = ["installed", *_table(installed), "", "machine", *_table(machine), "", "would be refused or slowed"]
    for sentence in concerns(facts) or ["Nothing."]:
        lines += textwrap.wrap(
            sentence,
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<17}{value}" for name, value in rows]


def _package(package: Package) -> str:
    if package.problem:
        return f"{package.version or ''} broken: {package.problem}".strip()
    extra = next((known.extra for known in OPTIONAL if known.name == package.name), "")
    if package.version is None and extra:
        return f"not installed: {install_command(extra)}"
    return f"installed {package.version or '(version unknown)'}"


def _card(card: Card) -> str:
    major, minor = card.capability
    precision = "bf16" if card.has_bf16 else "fp16 only"
    return f"{card.name}, {_size(card.memory_bytes)}, capability {major}.{minor}, {precision}"


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:,.1f} GiB"
