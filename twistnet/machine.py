"""What is installed and what the machine has; `twistnet.doctor` judges it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.version import VERSION
from loaders.cores import usable_cores, usable_memory
from loaders.errors import one_line
from loaders.native.library import why_missing

_IMPORT_LIMIT_S = 120
_REASON = 200  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A package that the project can use.

    Attributes:
        name: as people call it.
        module: what is imported.
        distribution: what pip calls it; empty where there are several.
        minimum: of setup.cfg, for the core; empty for the optional ones.
        extra: of setup.cfg, for the optional ones; empty for the core.
        lack: what is refused or slowed without it; empty where nothing is.
    """

    name: str
    module: str
    distribution: str
    minimum: str = ""
    extra: str = ""
    lack: str = ""


CORE = (
    Known(name="torch", module="torch", distribution="torch", minimum="2.8"),
    Known(name="torchvision", module="torchvision", distribution="torchvision", minimum="0.23"),
    Known(name="timm", module="timm", distribution="timm", minimum="1.0.15"),
    Known(name="huggingface_hub", module="huggingface_hub", distribution="huggingface_hub", minimum="0.20"),
    Known(name="numpy", module="numpy", distribution="numpy", minimum="1.26"),
    Known(name="pillow", module="PIL", distribution="pillow", minimum="10.3"),
    Known(name="fire", module="fire", distribution="fire", minimum="0.7"),
    Known(name="fsspec", module="fsspec", distribution="fsspec", minimum="2024.2"),
    Known(name="pyyaml", module="yaml", distribution="pyyaml", minimum="6"),
    Known(name="safetensors", module="safetensors", distribution="safetensors", minimum="0.4"),
    Known(name="tqdm", module="tqdm", distribution="tqdm", minimum="4.66"),
)
_DEMO = "twistnet demo has no photographs to cut its data set from"
OPTIONAL = (
    Known(name="ffcv", module="ffcv", distribution="ffcv", extra="ffcv"),
    Known(name="dali", module="nvidia.dali", distribution="", extra="dali"),
    Known(name="scikit-image", module="skimage", distribution="scikit-image", extra="demo", lack=_DEMO),
    Known(name="scikit-learn", module="sklearn", distribution="scikit-learn", extra="demo", lack=_DEMO),
    Known(name="matplotlib", module="matplotlib", distribution="matplotlib", extra="plots", lack="no curves are drawn"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package as found.

    Attributes:
        name: as people call it.
        version: None where it is not installed or does not say.
        problem: why it cannot be used though it is wanted or there; None where it works, or is optional and absent.
    """

    name: str
    version: str | None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One CUDA device; `capability` is (major, minor)."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bfloat16 itself: from Ampere on."""
        return self.capability >= (8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found. Sizes in bytes; None where it cannot be told.

    Attributes:
        twistnet: version.
        python: version.
        system: kernel and architecture.
        packages: the core ones, then the optional ones.
        cuda_build: the CUDA version that torch was built for.
        architectures: what torch was built for: "sm_90", "compute_120".
        driver: version of the NVIDIA driver.
        cards: in CUDA's order.
        cpu_bf16: whether the processor multiplies in bfloat16 itself.
        cores: of the machine.
        usable_cores: what affinity and cgroup leave to this process.
        memory_bytes: what the machine, or the cgroup, allows.
        shared_memory_bytes: size of /dev/shm.
        disk_path: the working directory.
        disk_free_bytes: there.
        open_files: the soft limit.
        compiler: path of the C++ compiler.
        libjpeg_turbo: version of its headers.
        native_lacks: why the native decoder cannot be used; None where it can.
    """

    twistnet: str
    python: str
    system: str
    packages: tuple[Package, ...]
    cuda_build: str | None
    architectures: tuple[str, ...]
    driver: str | None
    cards: tuple[Card, ...]
    cpu_bf16: bool
    cores: int
    usable_cores: int
    memory_bytes: int | None
    shared_memory_bytes: int | None
    disk_path: str
    disk_free_bytes: int
    open_files: int
    compiler: str | None
    libjpeg_turbo: str | None
    native_lacks: str | None


def collect() -> Facts:
    """Looks at this process's installation and machine. Takes some seconds: optional packages are really imported."""
    packages = (*(check_core(known) for known in CORE), *check_optional(OPTIONAL))
    cuda_build, architectures, cards = _cuda()
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    return Facts(
        twistnet=VERSION,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=packages,
        cuda_build=cuda_build,
        architectures=architectures,
        driver=driver_version(),
        cards=cards,
        cpu_bf16=_first_match(Path("/proc/cpuinfo"), r"\b((?:avx512_|amx_)?bf16)\b") is not None,
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_bytes=usable_memory(),
        shared_memory_bytes=shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None,
        disk_path=os.getcwd(),
        disk_free_bytes=shutil.disk_usage(".").free,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        compiler=compiler,
        libjpeg_turbo=_libjpeg_turbo(compiler) if compiler else None,
        native_lacks=why_missing(),
    )


def driver_version() -> str | None:
    """Version of the NVIDIA driver that runs; None where there is none."""
    return _first_match(Path("/proc/driver/nvidia/version"), r"Module\D*?(\d+(?:\.\d+)+)")


def read_bytes() -> int:
    """That this process has fetched from storage so far, mapped files included; 0 where the system does not say."""
    found = _first_match(Path("/proc/self/io"), r"read_bytes: (\d+)")
    return int(found) if found else 0


def check_core(known: Known) -> Package:
    """Imports a package that everything needs, in this process, which has it already."""
    try:
        importlib.import_module(known.module)
    except Exception as error:  # a broken install raises anything: ImportError, OSError, RuntimeError, AttributeError
        missing = isinstance(error, ModuleNotFoundError) and error.name == known.module
        reason = "is not installed" if missing else f"cannot be imported ({one_line(error, _REASON)})"
        return Package(name=known.name, version=_version(known), problem=reason)
    version = _version(known)
    old = version is not None and _numbers(version) < _numbers(known.minimum)
    problem = f"{version} is older than {known.minimum}" if old else None
    return Package(name=known.name, version=version, problem=problem)


def check_optional(packages: Sequence[Known]) -> list[Package]:
    """Imports each package that is there in a process of its own, all at once: what is broken may end its process."""
    code = "import importlib, sys; print(getattr(importlib.import_module(sys.argv[1]), '__version__', ''))"
    started = {
        known.name: subprocess.Popen(
            [sys.executable, "-c", code, known.module], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for known in packages
        if _is_there(known.module)
    }
    found = []
    for known in packages:
        if known.name not in started:
            found.append(Package(name=known.name, version=None))
            continue
        process = started[known.name]
        try:
            said, complaint = process.communicate(timeout=_IMPORT_LIMIT_S)
            lines = complaint.strip().splitlines() or [f"ended with code {process.returncode}"]
            reason = one_line(lines[-1], _REASON)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            reason = f"took more than {_IMPORT_LIMIT_S} s"
        problem = f"cannot be imported ({reason})" if process.returncode else None
        words = [] if problem else said.split()
        version = _version(known) or (words[-1] if words else None)
        found.append(Package(name=known.name, version=version, problem=problem))
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def _cuda() -> tuple[str | None, tuple[str, ...], tuple[Card, ...]]:
    try:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a driver that is too old: `concerns` says it in a sentence
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            found = [torch.cuda.get_device_properties(index) for index in range(count)]
    except Exception:  # reported as torch's problem, whatever it was
        return None, (), ()
    cards = tuple(
        Card(name=card.name, memory_bytes=card.total_memory, capability=(card.major, card.minor)) for card in found
    )
    return torch.version.cuda, tuple(torch.cuda.get_arch_list()), cards


def _libjpeg_turbo(compiler: str) -> str | None:
    # The preprocessor itself is asked: only it knows all of its include folders.
    source = "#include <stdio.h>\n#include <jpeglib.h>\nLIBJPEG_TURBO_VERSION\n"
    try:
        done = subprocess.run(
            [compiler, "-E", "-x", "c++", "-"], input=source, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return last if done.returncode == 0 and last[:1].isdigit() else None


def _version(known: Known) -> str | None:
    try:
        return importlib.metadata.version(known.distribution) if known.distribution else None
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _first_match(path: Path, pattern: str) -> str | None:
    found = re.search(pattern, _text(path))
    return found.group(1) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
