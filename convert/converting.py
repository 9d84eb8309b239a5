"""Converts one split: estimates, plans, writes its shards, and finishes the set. Started again, it goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convert.beton import require_ffcv, unfinished_beton
from convert.beton_policy import BetonPolicy
from convert.estimate import Estimate, estimate, refuse_a_small_disk
from convert.finishing import finish, manifest_for, remove_leftovers
from convert.images import ImagePolicy
from convert.locking import take_shards
from convert.plan import Plan, num_shards, read_settings, shuffled
from convert.running import write_shards
from convert.scan import Scan
from convert.shard import ShardTask, read_record
from loaders.errors import InputError
from loaders.files import clear_unfinished
from loaders.manifest import NAME, check_size, is_converted, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How to convert.

    Attributes:
        out: the converted set's folder.
        policy: what is stored of an image.
        beton: how images lie in FFCV's file; None writes none.
        keep_shards: whether the tars stay where a beton was made of them.
        seed: of the order.
        shard_bytes: target size of a tar.
        min_shards: at least so many tars, as long as there are as many images.
        workers: processes.
        max_bad: largest share of images that may be left out, 0 to 1.
        part: (i, n): only every n-th shard, beginning with the i-th, from 1; None: all of them.
    """

    out: Path
    policy: ImagePolicy
    beton: BetonPolicy | None = None
    keep_shards: bool = True
    seed: int = 0
    shard_bytes: int = 1_000_000_000
    min_shards: int = 16
    workers: int = 1
    max_bad: float = 0.001
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.shard_bytes < 1_000_000:
            raise InputError(f"shard_size {self.shard_bytes / 1e9:g} GB is too small: take at least 0.001.")
        for name in ("min_shards", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is too small: take at least 1.")
        if not 0 <= self.max_bad <= 1:
            raise InputError(f"max_bad {self.max_bad} is impossible: take a share from 0 to 1.")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise InputError(f"part {self.part[0]}/{self.part[1]} is impossible: take 1/n to n/n.")
        if self.beton is None and not self.keep_shards:
            raise InputError("formats is empty: name shards, beton or both.")


def convert_split(
    scan: Scan, conversion: Conversion, say: Callable[[str], object], later: int = 0
) -> Mapping[str, Any] | None:
    """Converts the split that was scanned, or goes on where an earlier start of the same conversion ended.

    Args:
        scan: what the source holds.
        conversion: how.
        say: gets each line for a person.
        later: bytes of the source that will be converted after it, for which there has to be room too.

    Returns:
        The split's entry in the manifest; None for a part, which `convert.finishing.finish` joins with the others.

    Raises:
        InputError: where something that the user can change stands in the way; what was finished stays.
        OSError: where the source or the target fails.
    """
    out, split = conversion.out, scan.split
    if not len(scan):
        raise InputError(f"{split} of {scan.root} holds no images: nothing can be converted.")
    entry = _converted(scan, conversion, say)
    if entry is not None:
        remove_leftovers(out, split, entry)
        return entry
    if conversion.beton is not None:
        require_ffcv()
    order = shuffled(len(scan), conversion.seed)
    whole = estimate(scan, conversion.policy, conversion.beton, order, conversion.workers)
    plan = Plan(
        scan=scan,
        out=out,
        policy=conversion.policy,
        seed=conversion.seed,
        num_shards=num_shards(whole.image_bytes, len(scan), conversion.shard_bytes, conversion.min_shards),
        beton=conversion.beton,
        keep_shards=conversion.keep_shards,
    )
    manifest_for(out, plan.settings, list(scan.classes))  # refuses now what would not fit in the end
    tasks = list(plan.tasks())
    if conversion.part is not None:
        number, of = conversion.part
        tasks = [task for task in tasks if task.number % of == number - 1]
    numbers = [task.number for task in tasks]
    if read_settings(out, split) is not None:
        plan.begin()
        with take_shards(plan.records, numbers):
            _clear(plan, tasks)  # before the disk is asked for room
    remaining = [task for task in tasks if read_record(out, plan.records, task.name) is None]
    expected = whole.of(sum(len(task.members) for task in remaining), beton=conversion.part is None)
    refuse_a_small_disk(
        out,
        expected.shard_bytes + expected.beton_bytes + whole.bytes_of(later / int(scan.length.sum())),
        "free some, choose another --out, or store smaller images with --images short_side=400",
    )
    try:
        plan.begin()
        lock = take_shards(plan.records, numbers)
    except (InputError, FileNotFoundError):
        # Another process may have finished the split in this moment.
        if entry := _converted(scan, conversion, say):
            return entry
        raise
    with lock:
        return _converted(scan, conversion, say) or _write(plan, tasks, remaining, conversion, expected, say)


def _write(
    plan: Plan,
    tasks: Sequence[ShardTask],
    remaining: Sequence[ShardTask],
    conversion: Conversion,
    expected: Estimate,
    say: Callable[[str], object],
) -> Mapping[str, Any] | None:
    """Writes the shards that are not finished, and finishes the split where the tasks are all of its shards."""
    out, split = plan.out, plan.scan.split
    before = len(tasks) - len(remaining)
    gone_on = f", {before} finished before" if before else ""
    say(f"{split}: {expected}; {plan.num_shards} shards{gone_on}")
    try:
        write_shards(remaining, conversion.workers, split)
        entry = None
        if conversion.part is None:
            entry = finish(out, split, max_bad=conversion.max_bad, workers=conversion.workers)
    except OSError as error:
        if error.filename is not None:  # a file of the source, or a program: the message names it
            raise
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}): free space or see to its disk, and start again, "
            "which goes on after the shards that are finished."
        ) from error
    if conversion.part is not None:
        number, of = conversion.part
        say(f"Part {number} of {of} of {split} is done: when all are, call twistnet convert merge --out {out}")
    return entry


def _clear(plan: Plan, tasks: Sequence[ShardTask]) -> None:
    """Removes what killed processes left of these shards alone: other parts may be writing to the same folders."""
    stems = {Path(task.name).stem for task in tasks}
    for folder in (plan.out, plan.records):
        clear_unfinished(folder, lambda name: _stem(name) in stems)
    if len(tasks) == plan.num_shards:
        unfinished_beton(plan.out, plan.scan.split).unlink(missing_ok=True)


def _stem(name: str) -> str:
    """`val-000001` of `val-000001.tar`, `.idx`, `.json` and `.rows.npy`; a split's name may have dots."""
    return re.sub(r"(-\d{6})\..*$", r"\1", name)


def _converted(scan: Scan, conversion: Conversion, say: Callable[[str], object]) -> Mapping[str, Any] | None:
    """The split's entry in the manifest, where it is converted already; says so.

    Raises:
        InputError: where it was converted otherwise.
    """
    path = conversion.out / NAME
    if not is_converted(conversion.out):
        return None
    read = read_manifest(conversion.out)
    if scan.split not in read.splits:
        return None
    manifest = read.values
    entry: Mapping[str, Any] = manifest["splits"][scan.split]
    beton = (entry.get("beton") or {}).get("policy")
    held = {
        **{name: manifest.get(name) for name in ("images", "quality", "seed")},
        "fingerprint": entry.get("fingerprint"),
        "formats": _formats(bool(entry["shards"]), beton),
    }
    wanted = {
        "images": str(conversion.policy),
        "quality": conversion.policy.quality,
        "seed": conversion.seed,
        "fingerprint": scan.fingerprint,
        "formats": _formats(conversion.keep_shards, asdict(conversion.beton) if conversion.beton else None),
    }
    shards, least = len(entry["shards"]), min(conversion.min_shards, len(scan))
    if conversion.keep_shards and shards < least:
        raise InputError(f"{path} holds {scan.split} in {shards} shards, fewer than {least}: choose another --out.")
    if held.pop("fingerprint") != wanted.pop("fingerprint"):
        raise InputError(f"{path} holds {scan.split} of another or a changed data set: choose another --out.")
    for name, value in wanted.items():
        if held[name] != value:
            raise InputError(f"{path} holds {scan.split} with {name} {held[name]}, not {value}: choose another --out.")
    for file in read.splits[scan.split].files:
        check_size(conversion.out, file)
    kept = f"{shards} shards" if shards else entry["beton"]["name"]
    say(f"{scan.split} is converted already: {kept} in {conversion.out}")
    return entry


def _formats(shards: bool, beton: Mapping[str, Any] | None) -> str:
    """As a person reads it: `shards,beton (mode jpg, share 0.5, seed 0)`."""
    policy = ", ".join(f"{name} {value}" for name, value in (beton or {}).items())
    return ",".join([*(["shards"] if shards else []), *([f"beton ({policy})"] if beton else [])])
