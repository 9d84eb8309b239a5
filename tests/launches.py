"""Programs of SLURM and others that record how they are called, for the tests of twistnet launch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from twistnet.__main__ import main

# What follows -- in most of these tests; nothing is read from the folder.
COMMAND = ("pretrain", "--data_dir", "imagenet")

# A word that a shell would run, split or end a line at, wherever it is not quoted.
HOSTILE = "a b'\"; $(touch injected) `touch injected` ${HOME} \\ & | > injected\ntouch injected #*"

_RECORD = f"""#!{sys.executable}
import json, os, sys
with open({{log!r}}, "a") as log:
    log.write(json.dumps([{{name!r}}, *sys.argv[1:]]) + "\\n")
"""

# As srun does, it kills its task at once on a SIGTERM of its own; its task stops well on one that reaches it.
_SRUN = """
if "hostname" in sys.argv:
    print(os.environ["FAKE_ADDRESS"])
    sys.exit(0)
import signal, subprocess
words = sys.argv[1:]
while words[0].startswith("--"):
    del words[0]
task = subprocess.Popen(words, env={**os.environ, "SLURM_NODEID": "0"})
def killed(*_):
    task.kill()
    sys.exit(137)
signal.signal(signal.SIGTERM, killed)
open("task.pid.tmp", "w").write(str(task.pid))
os.rename("task.pid.tmp", "task.pid")
sys.exit(task.wait())
"""
_SCANCEL = """
import signal
os.kill(int(open("task.pid").read()), signal.SIGTERM)
"""
_SCONTROL = """
if sys.argv[1:3] == ["show", "hostnames"]:
    print("first\\nsecond")
elif sys.argv[1:3] == ["show", "job"]:
    print("JobId=1 JobState=RUNNING", "PreemptTime=" + os.environ.get("FAKE_PREEMPTED", "None"))
"""
# Stands for the interpreter on a node, which would start torchrun and the workers.
_PYTHON = """
import signal, time
code = os.environ.get("FAKE_CODE")
if code is not None:
    sys.exit(int(code))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
time.sleep(60)
"""
PROGRAMS = {"srun": _SRUN, "scancel": _SCANCEL, "scontrol": _SCONTROL, "python": _PYTHON}


class Fakes:
    """A folder of programs that note their arguments.

    Attributes:
        folder: for the front of PATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / "calls.jsonl"
        folder.mkdir()
        for name, body in PROGRAMS.items():
            self.add(name, body)

    def add(self, name: str, body: str = "") -> None:
        """Another program; without a body it does nothing but note its arguments."""
        file = self.folder / name
        file.write_text(_RECORD.format(log=str(self._log), name=name) + body)
        file.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of the program."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [words[1:] for words in map(json.loads, lines) if words[0] == name]


def launch(target: str, *flags: str, command: tuple[str, ...] = COMMAND) -> int:
    """`twistnet launch --target TARGET ... -- COMMAND`; gives its exit code."""
    return main(["launch", "--target", target, *flags, "--", *command])
