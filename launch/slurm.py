"""A batch file for SLURM: one task a node, rendezvous on the first compute node, requeued ahead of the end.

What srun does with a signal of its own decides how the file stops a run: on SIGTERM it kills the tasks at once
(`_forward_signal` of its source), so they are signalled by `scancel --signal`, which leaves the batch script alone.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from launch.plan import Launch, Plan, headline, one_word

_NOTICE_S = 120  # SLURM may signal up to 60 s earlier; a run saves within 25
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000  # below those that Linux gives to outgoing connections

# As sbatch's page lists them: minutes, with seconds, hours, or after days and a hyphen hours.
_TIME = re.compile(r"[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}|infinite|unlimited", re.IGNORECASE)
_MEMORY = re.compile(r"[0-9]+[KMGT]?", re.IGNORECASE)

_BODY = r"""
set -u
: "${SLURM_JOB_ID:?is not set: submit this file with sbatch}"

fail() {
    echo "error: $*" >&2
    exit 1
}

# The rendezvous is on the first compute node: never on "localhost", which is another machine on each.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=${hosts%%$'\n'*}
[ -n "$host" ] || fail "scontrol names no node of $SLURM_JOB_NODELIST: check that scontrol works on the compute nodes."
found=$(srun --nodes=1 --ntasks=1 --nodelist="$host" hostname --ip-address) ||
    fail "srun could not ask $host, the first compute node, for its address: see srun's message above."
address=
for candidate in $found; do
    case $candidate in
    127.* | *:*) ;; # loopback, or IPv6
    *)
        address=$candidate
        break
        ;;
    esac
done
if [ -z "$address" ] && [ "$SLURM_NNODES" -gt 1 ]; then
    fail "rendezvous address $host is $found on $host itself, a loopback address that no other node reaches:" \
        "have its name point to its network address in its /etc/hosts or DNS."
fi
address=${address:-127.0.0.1} # of a single node
port=$((@FIRST_PORT@ + SLURM_JOB_ID % @NUM_PORTS@))

signalled=
interrupted=
forward() {
    signalled=$1
    interrupted=1
    echo "SIG$1 came: the workers are told to save and stop."
    # Not kill: on SIGTERM srun kills its tasks at once. This reaches the tasks, and not this script.
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap 'forward USR1' USR1
trap 'forward TERM' TERM

@SRUN@ &
step=$!

# A trap ends a wait early; one that nothing interrupts gives the exit code of srun.
while :; do
    interrupted=
    wait "$step"
    code=$?
    [ -n "$interrupted" ] || break
done

# A preempted job's tasks may be signalled without this script.
if [ "$code" -ne 0 ] && [ -z "$signalled" ]; then
    case $(scontrol show job "$SLURM_JOB_ID") in
    *PreemptTime=[0-9]*) signalled=TERM ;;
    esac
fi
if [ "$code" -ne 0 ] && [ -n "$signalled" ]; then
    # Incomplete: a job that its user has cancelled stays so.
    scontrol requeue Incomplete "$SLURM_JOB_ID" ||
        echo "error: job $SLURM_JOB_ID could not be requeued: submit it again, and it goes on from its checkpoint." >&2
fi
exit "$code"
"""


def launch(
    plan: Plan,
    *,
    file: Path | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    time: str | None = None,
    cpus_per_gpu: int | None = None,
    memory: str | None = None,
) -> Launch:
    """The batch file and its submission.

    Args:
        plan: what to run. Its image is run by pyxis, `srun --container-image`.
        file: where the file goes; the job's name with .sbatch unless given.
        partition: sbatch's, as account and qos are.
        account: who pays.
        qos: quality of service.
        time: limit, as 24:00:00 or 2-00:00:00.
        cpus_per_gpu: cores a process.
        memory: of a node, as 200G.

    Raises:
        ValueError: one sentence, where a value cannot stand in the file.
    """
    if cpus_per_gpu is not None and cpus_per_gpu < 1:
        raise ValueError(f"--cpus_per_gpu {cpus_per_gpu} is below 1: give 1 or more, or leave it out.")
    if plan.mounts and not plan.image:
        raise ValueError("--mounts are of a container: give --image, too, or leave them out.")
    if time is not None and not _TIME.fullmatch(time):
        raise ValueError(f"--time {time!r} is no limit of SLURM's: write HH:MM:SS or DAYS-HH:MM:SS, as 24:00:00.")
    if memory is not None and not _MEMORY.fullmatch(memory):
        raise ValueError(f"--memory {memory!r} is no size of SLURM's: write a whole number and K, M, G or T, as 200G.")
    file = file or Path(f"{plan.name}.sbatch")
    argv = ["sbatch", str(file)]
    cpus = None if cpus_per_gpu is None else str(cpus_per_gpu * plan.processes)
    options = {
        "job-name": plan.name,
        "nodes": str(plan.nodes),
        "ntasks-per-node": "1",
        "gpus-per-node": str(plan.gpus) if plan.gpus else None,
        "cpus-per-task": cpus,
        "mem": memory,
        "partition": partition,
        "account": account,
        "qos": qos,
        "time": time,
        "signal": f"B:USR1@{_NOTICE_S}",
        "requeue": "",
        "open-mode": "append",
        "output": f"{plan.name}-%j.out",
    }
    flags = {"mem": "memory"}
    lines = ["#!/usr/bin/env bash", headline(argv)]
    for name, value in options.items():
        if value is not None:
            one = f"={one_word(flags.get(name, name), value)}" if value else ""
            lines.append(f"#SBATCH --{name}{one}")
    lines += [f': "${{{name}:?is not in the environment of sbatch}}"' for name in plan.inherited]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in plan.values.items()]
    body = _BODY.replace("@FIRST_PORT@", str(_FIRST_PORT)).replace("@NUM_PORTS@", str(_NUM_PORTS))
    text = "\n".join(lines) + "\n" + body.lstrip("\n").replace("@SRUN@", _srun(plan, cpus))
    notes = []
    if plan.processes > 1 and cpus is None:
        notes.append(
            f"Without --cpus_per_gpu SLURM gives the {plan.processes} processes of a node its own number of cores, "
            "which is often one."
        )
    return Launch(argv=argv, file=file, text=text, notes=notes)


def _srun(plan: Plan, cpus: str | None) -> str:
    """The line that starts one torchrun a node; the shell fills in what SLURM says."""
    step = ['--nodes="$SLURM_NNODES"', '--ntasks="$SLURM_NNODES"', "--ntasks-per-node=1"]
    if cpus is not None:
        step.append(f"--cpus-per-task={cpus}")  # a step does not take it from its job in every version
    if plan.image:
        mounts = ",".join(f"{source}:{path}" for path, source in plan.mounts.items())
        step += [f"--container-image={shlex.quote(plan.image)}", *([f"--container-mounts={mounts}"] if mounts else [])]
    words = plan.checked("@NODES@", "@ENDPOINT@", "@JOB@", "--node_rank_from=SLURM_NODEID")
    ends = words.index("twistnet")
    # What bash is to expand goes in after all has been quoted.
    ours = [_expanded(shlex.quote(word)) for word in words[:ends]]
    theirs = shlex.join(words[ends:])
    check, run = ours[: ours.index("--") + 1], ours[ours.index("--") + 1 :]
    return " \\\n    ".join([f"srun --kill-on-bad-exit=1 {' '.join(step)}", " ".join(check), " ".join(run), theirs])


def _expanded(word: str) -> str:
    marks = {"@NODES@": '"$SLURM_NNODES"', "@ENDPOINT@": '"$address:$port"', "@JOB@": '"$SLURM_JOB_ID"'}
    for mark, text in marks.items():
        word = word.replace(mark, text)
    return word
