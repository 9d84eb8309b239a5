"""What a machine and an installation would make a run refuse or wait for: a pure function of what was found."""

from __future__ import annotations

import re
from collections.abc import Sequence

from twistnet.machine import CORE, OPTIONAL, Facts

GIB = 2**30


def concerns(facts: Facts) -> list[str]:
    """What a run would be refused or slowed by, a sentence each with the next step; the worst first."""
    return [*_package_concerns(facts), *_card_concerns(facts), *_machine_concerns(facts)]


def is_usable(facts: Facts) -> bool:
    """Whether every core package works."""
    core = {known.name for known in CORE}
    return not any(package.problem for package in facts.packages if package.name in core)


def install_command(extra: str) -> str:
    """What brings the packages of an extra."""
    return f"pip install 'twistnet[{extra}]'"


def _package_concerns(facts: Facts) -> list[str]:
    found = []
    packages = {package.name: package for package in facts.packages}
    for known in CORE:
        package = packages.get(known.name)
        if package and package.problem:
            wanted = f"'{known.distribution}>={known.minimum}'"
            found.append(f"{known.name} {package.problem}: nothing runs without it; pip install --upgrade {wanted}.")
    for known in OPTIONAL:
        package = packages.get(known.name)
        if package and package.problem:
            lack = known.lack or f"the extra {known.extra} cannot be used"
            found.append(f"{known.name} is installed but {package.problem}: {lack} until it is repaired.")
        elif package and package.version is None and known.lack:
            found.append(f"{known.name} is not installed: {known.lack}; {install_command(known.extra)}.")
    return found


def _card_concerns(facts: Facts) -> list[str]:
    found = []
    if not facts.cards:
        if facts.driver and not facts.cuda_build:
            found.append(
                f"The NVIDIA driver {facts.driver} is loaded but this torch is built without CUDA: install a CUDA "
                "build from https://pytorch.org/get-started."
            )
        elif facts.driver:
            found.append(
                f"torch, built for CUDA {facts.cuda_build}, sees no card though the NVIDIA driver {facts.driver} is "
                "loaded: unset CUDA_VISIBLE_DEVICES, or update the driver to one that supports this CUDA version."
            )
        found.append("No CUDA device: training runs on the CPU, which does for the demo and not for ImageNet.")
        found.append(
            "--amp computes in bf16 on the CPU"
            + ("." if facts.cpu_bf16 else ", which this processor only emulates: leave it out for speed.")
        )
    for index, card in enumerate(facts.cards):
        named = f"Card {index} ({card.name}, capability {card.capability[0]}.{card.capability[1]})"
        if facts.architectures and not _supports(facts.architectures, card.capability):
            found.append(
                f"{named} is not among those that this torch is built for ({', '.join(facts.architectures)}): "
                "install a torch build that supports it."
            )
        elif not card.has_bf16:
            found.append(f"{named} has no bf16: --amp computes in fp16 with a loss scaler.")
    needed = 4 * len(facts.cards)
    if facts.usable_cores < needed:
        found.append(
            f"{facts.usable_cores} usable cores for {len(facts.cards)} card(s): decoding JPEG will hold the cards "
            f"back below 4 cores a card; ask for {needed}, or convert to smaller images."
        )
    return found


def _machine_concerns(facts: Facts) -> list[str]:
    found = []
    version = tuple(int(part) for part in facts.python.split(".")[:2])
    if not (3, 10) <= version < (3, 14):
        found.append(f"Python {facts.python} is outside 3.10 to 3.13, for which this is made: use one of those.")
    if facts.native_lacks:
        found.append(f"{facts.native_lacks}: until then the reference decoder loads images, several times slower.")
    if facts.shared_memory_bytes is not None and facts.shared_memory_bytes < GIB:
        found.append(
            f"/dev/shm holds {facts.shared_memory_bytes / GIB:.2f} GiB, less than 1 GiB: worker processes and NCCL, "
            "which pass data through it, may end with a bus error; give the container --shm-size=8g."
        )
    if facts.memory_bytes is not None and facts.memory_bytes < 4 * GIB:
        found.append(
            f"{facts.memory_bytes / GIB:.1f} GiB of memory, less than 4 GiB: a run may be killed; lower --batch_size "
            "and --workers."
        )
    if facts.disk_free_bytes < GIB:
        found.append(
            f"{facts.disk_free_bytes / GIB:.2f} GiB free in {facts.disk_path}, less than 1 GiB: checkpoints may not "
            "fit; write them elsewhere with --checkpoint_dir."
        )
    if 0 <= facts.open_files < 1024:
        found.append(f"Only {facts.open_files} files may be open at once, fewer than 1,024: run ulimit -n 4096 first.")
    return found


def _supports(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code built for the architectures runs on the card: binaries within a major version, PTX on all later."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        number = re.match(r"\d+", digits)
        if not number:
            return True  # not CUDA's naming: no ground to warn
        built = divmod(int(number.group()), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False
