"""`twistnet doctor`: what it finds on this machine, and what it concludes from facts that are made up."""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import twistnet.commands.doctor as command
from loaders.cores import cgroup_limits
from twistnet.cli import run
from twistnet.doctor import GIB, concerns, is_usable
from twistnet.machine import (
    CORE,
    OPTIONAL,
    Card,
    Facts,
    Known,
    Package,
    check_core,
    check_optional,
    collect,
)

ROOT = Path(__file__).resolve().parent.parent
H100 = Card(name="NVIDIA H100", memory_bytes=80 * GIB, capability=(9, 0))
V100 = Card(name="Tesla V100", memory_bytes=16 * GIB, capability=(7, 0))
HEALTHY = Facts(
    twistnet="0.1.0",
    python="3.12.3",
    system="Linux 6.1 x86_64",
    packages=tuple(Package(name=known.name, version="99.0") for known in (*CORE, *OPTIONAL)),
    cuda_build="13.0",
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_120", "compute_120"),
    driver="580.65",
    cards=(H100, H100),
    cpu_bf16=True,
    cores=64,
    usable_cores=32,
    memory_bytes=256 * GIB,
    shared_memory_bytes=64 * GIB,
    disk_path="/data",
    disk_free_bytes=500 * GIB,
    open_files=1024,
    compiler="/usr/bin/c++",
    libjpeg_turbo="2.1.5",
    native_lacks=None,
)


def changed(**changes: Any) -> Facts:
    return dataclasses.replace(HEALTHY, **changes)


def with_package(name: str, version: str | None, problem: str | None = None) -> Facts:
    found = Package(name=name, version=version, problem=problem)
    return changed(packages=tuple(found if package.name == name else package for package in HEALTHY.packages))


def test_a_machine_with_everything_gives_no_concern() -> None:
    assert concerns(HEALTHY) == []
    assert is_usable(HEALTHY)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            changed(cards=(), driver=None),
            ["No CUDA device: training runs on the CPU", "--amp computes in bf16 on the CPU."],
        ),
        (changed(cards=(), driver=None, cpu_bf16=False), ["No CUDA device", "only emulates: leave it out"]),
        (
            changed(native_lacks="the native decoder was not built: install g++"),
            ["the native decoder was not built: install g++: until then the reference decoder loads images"],
        ),
        (changed(cards=(), cuda_build=None), ["this torch is built without CUDA: install", "No CUDA", "--amp"]),
        (changed(cards=()), ["sees no card though the NVIDIA driver 580.65 is loaded: unset", "No CUDA", "--amp"]),
        (changed(cards=(V100,)), ["capability 7.0) is not among those that this torch is built for (sm_75"]),
        (changed(cards=(V100,), architectures=("sm_70",)), ["has no bf16: --amp computes in fp16"]),
        (changed(cards=(dataclasses.replace(H100, capability=(8, 9)),)), []),
        (changed(cards=(dataclasses.replace(H100, capability=(12, 1)),)), []),
        (changed(cards=(dataclasses.replace(H100, capability=(13, 0)),)), []),
        (changed(cards=(dataclasses.replace(H100, capability=(10, 0)),)), ["is not among those"]),
        (changed(usable_cores=8), []),
        (changed(usable_cores=7), ["7 usable cores for 2 card(s)"]),
        (changed(shared_memory_bytes=GIB), []),
        (changed(shared_memory_bytes=GIB // 16), ["/dev/shm holds 0.06 GiB, less than 1 GiB"]),
        (changed(shared_memory_bytes=None, memory_bytes=None), []),
        (changed(memory_bytes=2 * GIB), ["2.0 GiB of memory, less than 4 GiB"]),
        (changed(disk_free_bytes=GIB // 2), ["0.50 GiB free in /data, less than 1 GiB"]),
        (changed(open_files=256), ["Only 256 files may be open at once, fewer than 1,024: run ulimit"]),
        (changed(open_files=-1), []),
        (changed(python="3.14.0"), ["Python 3.14.0 is outside 3.10 to 3.13"]),
        (
            with_package("matplotlib", None),
            ["matplotlib is not installed: no curves are drawn; pip install 'twistnet[plots]'."],
        ),
        (with_package("ffcv", None), []),
        (
            with_package("dali", "2.4", "cannot be imported (x)"),
            ["dali is installed but cannot be imported (x): the extra dali cannot be used until it is repaired."],
        ),
        (
            with_package("timm", "0.9.1", "0.9.1 is older than 1.0.15"),
            ["timm 0.9.1 is older than 1.0.15: nothing runs"],
        ),
    ],
)
def test_concerns(facts: Facts, expected: list[str]) -> None:
    found = concerns(facts)
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence
        assert sentence.endswith(".")


def test_only_a_broken_core_package_is_a_failure() -> None:
    assert not is_usable(with_package("torch", None, "is not installed"))
    assert is_usable(with_package("ffcv", "1.0.2", "cannot be imported (x)"))


def test_packages_are_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = config["options"]["install_requires"].split()
    assert sorted(f"{known.distribution}>={known.minimum}" for known in CORE) == sorted(required)
    extras = config["options.extras_require"]
    for known in OPTIONAL:
        assert known.distribution in extras[known.extra]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("__version__ = '3.1'; print('noise')", None),
        (
            "raise ImportError('libx.so.4: cannot open shared object file')",
            "(ImportError: libx.so.4: cannot open shared object file)",
        ),
        ("import os; os.kill(os.getpid(), 9)", "(ended with code -9)"),
    ],
)
def test_an_optional_package_is_really_imported(
    body: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up_package.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    there = Known(name="made-up", module="made_up_package", distribution="", extra="plots")
    absent = Known(name="absent", module="made_up_parent.absent", distribution="", extra="plots")
    found = check_optional([there, absent])
    expected = Package(name="made-up", version="3.1") if problem is None else None
    assert found[1] == Package(name="absent", version=None)
    assert found[0] == (expected or Package(name="made-up", version=None, problem=f"cannot be imported {problem}"))


def test_a_core_package_is_missing_broken_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_core.py").write_text("raise OSError('bad\\nlibrary')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = check_core(Known(name="x", module="made_up_core", distribution="no-such-made-up", minimum="1"))
    assert broken == Package(name="x", version=None, problem="cannot be imported (bad library)")
    absent = check_core(Known(name="x", module="made_up_absent", distribution="no-such-made-up", minimum="1"))
    assert absent == Package(name="x", version=None, problem="is not installed")
    old = check_core(Known(name="numpy", module="numpy", distribution="numpy", minimum="9999.10"))
    assert old.problem == f"{np.__version__} is older than 9999.10"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, (None, None)),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, (None, None)),
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, (1.5, GIB)),
        (
            "0::/a/b\n",
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n", "cpu.max": "800000 100000\n"},
            (4.0, None),
        ),
        ("0::/unseen/here\n", {"memory.max": "4294967296\n"}, (None, 4 * GIB)),
        (
            "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "memory/docker/x/memory.limit_in_bytes": "2147483648\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            (2.0, 2 * GIB),
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, (None, None)),
    ],
)
def test_cgroup_limits(membership: str, files: dict[str, str], expected: tuple[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "membership").write_text(membership)
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert cgroup_limits(root, tmp_path / "membership") == expected


@pytest.fixture(scope="module")
def facts() -> Facts:
    return collect()


def test_facts_of_this_machine(facts: Facts) -> None:
    packages = {package.name: package for package in facts.packages}
    assert packages["torch"].version == metadata.version("torch")
    assert packages["pillow"].version == metadata.version("pillow")
    assert is_usable(facts)
    assert 1 <= facts.usable_cores <= len(os.sched_getaffinity(0)) <= facts.cores
    assert facts.python == sys.version.split()[0]
    assert len(facts.cards) == torch.cuda.device_count()
    assert facts.memory_bytes is not None
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert facts.memory_bytes <= int(meminfo["MemTotal"].split()[0]) * 1024


@pytest.mark.gpu
def test_cards_of_this_machine(facts: Facts) -> None:
    assert facts.driver is not None
    for index, card in enumerate(facts.cards):
        assert card.name == torch.cuda.get_device_name(index)
        assert card.capability == torch.cuda.get_device_capability(index)
        with torch.cuda.device(index):
            assert card.has_bf16 == torch.cuda.is_bf16_supported(including_emulation=False)


def test_text_and_json_of_a_run(
    facts: Facts, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "collect", lambda: facts)
    assert run(["doctor"]) == 0
    text = capfd.readouterr().out
    for package in facts.packages:
        assert f"  {package.name} " in text
    for part in ("cores", "shared memory", "free disk", "C++ compiler", "native decoder", "would be refused or slowed"):
        assert part in text
    assert run(["doctor", "--json"]) == 0
    written = json.loads(capfd.readouterr().out)
    assert written["concerns"] == concerns(facts)
    assert written["usable_cores"] == facts.usable_cores


def test_text_of_other_machines(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (HEALTHY, 0, ["card 1           NVIDIA H100, 80.0 GiB, capability 9.0, bf16", "  - Nothing."]),
        (with_package("ffcv", None), 0, ["ffcv             not installed: pip install 'twistnet[ffcv]'"]),
        (
            with_package("ffcv", "1.0", "cannot be imported (x)"),
            0,
            ["ffcv             1.0 broken: cannot be imported (x)"],
        ),
        (with_package("timm", None, "is not installed"), 1, ["timm             broken: is not installed"]),
        (changed(cards=(), shared_memory_bytes=None), 0, ["cards            none", "shared memory    unknown"]),
    ]
    for facts, code, parts in cases:
        monkeypatch.setattr(command, "collect", lambda facts=facts: facts)
        assert run(["doctor"]) == code
        text = capfd.readouterr().out
        assert [part for part in parts if part not in text] == []
        assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("module", ["torch", "numpy", "fire"])
def test_a_broken_core_package_is_told_and_not_met(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('libx.so.4: cannot open shared object file')")

    def called(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "twistnet", *argv],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )

    train = called("pretrain", "--data_dir=nowhere")
    assert train.returncode == 1
    assert "libx.so.4" in train.stderr
    assert "Traceback" not in train.stderr
    if module == "fire":  # nothing can read a command line without it
        return
    told = called("doctor")
    assert told.returncode == 1
    assert f"{module} cannot be imported (libx.so.4" in told.stdout
    assert "nothing runs without it" in told.stdout
