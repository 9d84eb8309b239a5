"""Converts one split: estimates, plans, writes its shards, and finishes the set. Started again, it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.beton import require_ffcv
from convert.beton_policy import BetonPolicy
from convert.estimate import estimate, refuse_a_small_disk
from convert.finishing import finish, remove_leftovers
from convert.images import ImagePolicy
from convert.plan import Plan, num_shards, records_of
from convert.running import write_shards
from convert.scan import Scan
from convert.shard import read_record
from loaders.errors import InputError
from loaders.files import clear_unfinished
from loaders.manifest import NAME
from loaders.order import Order


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
        for name, low in (("shard_bytes", 1_000_000), ("min_shards", 1), ("workers", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name} {getattr(self, name)} is too small: take at least {low}.")
        if not 0 <= self.max_bad <= 1:
            raise InputError(f"max_bad {self.max_bad} is impossible: take a share from 0 to 1.")
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise InputError(f"part {self.part[0]}/{self.part[1]} is impossible: take 1/n to n/n.")
        if self.beton is None and not self.keep_shards:
            raise InputError("formats is empty: name shards, beton or both.")


def convert_split(scan: Scan, conversion: Conversion, say: Callable[[str], object]) -> Mapping[str, Any] | None:
    """Converts the split that was scanned, or goes on where an earlier start of the same conversion ended.

    Args:
        scan: what the source holds.
        conversion: how.
        say: gets each line for a person.

    Returns:
        The split's entry in the manifest; None for a part, which `convert.finishing.finish` joins with the others.

    Raises:
        InputError: where something that the user can change stands in the way; what was finished stays.
        OSError: where the source or the target fails.
    """
    out, split = conversion.out, scan.split
    if not len(scan):
        raise InputError(f"{split} of {scan.root} holds no images: nothing can be converted.")
    entry = _converted(scan, conversion)
    if entry is not None:
        remove_leftovers(out, split, entry)
        say(f"{split} is converted already: {out}")
        return entry
    if conversion.beton is not None:
        require_ffcv()
    order = Order(num_samples=len(scan), global_batch=len(scan), seed=conversion.seed).batch(0, 0)[0]
    expected = estimate(scan, conversion.policy, conversion.beton, order, conversion.workers)
    plan = Plan(
        scan=scan,
        out=out,
        policy=conversion.policy,
        seed=conversion.seed,
        num_shards=num_shards(expected.image_bytes, len(scan), conversion.shard_bytes, conversion.min_shards),
        beton=conversion.beton,
        keep_shards=conversion.keep_shards,
    )
    tasks = list(plan.tasks())
    finished = [record for task in tasks if (record := read_record(out, plan.records, task.name))]
    refuse_a_small_disk(out, expected.shard_bytes + expected.beton_bytes, sum(record.entry.size for record in finished))
    plan.begin()
    clear_unfinished(out)
    clear_unfinished(plan.records)
    gone_on = f", {len(finished)} finished before" if finished else ""
    say(f"{split}: {expected}; {plan.num_shards} shards{gone_on}")
    if conversion.part is not None:
        number, of = conversion.part
        tasks = [task for task in tasks if task.number % of == number - 1]
    write_shards(tasks, conversion.workers)
    if conversion.part is not None:
        say(f"Part {number} of {of} of {split} is done: when all are, call twistnet convert merge --out {out}")
        return None
    return finish(out, split, max_bad=conversion.max_bad)


def _converted(scan: Scan, conversion: Conversion) -> Mapping[str, Any] | None:
    """The split's entry in the manifest, where it is converted already.

    Raises:
        InputError: where it was converted otherwise.
    """
    path = conversion.out / NAME
    if not path.exists():
        return None
    manifest = json.loads(path.read_text())
    entry: Mapping[str, Any] | None = manifest["splits"].get(scan.split)
    if entry is None:
        return None
    held = {"fingerprint": entry["fingerprint"], "images": manifest["images"], "seed": manifest["seed"]}
    wanted = {"fingerprint": scan.fingerprint, "images": str(conversion.policy), "seed": conversion.seed}
    for name, value in wanted.items():
        if held[name] != value:
            raise InputError(f"{path} holds {scan.split} with {name} {held[name]}, not {value}: choose another --out.")
    if records_of(conversion.out, scan.split).exists() or (entry["beton"] is None) == (conversion.beton is None):
        return entry
    raise InputError(f"{path} holds {scan.split} with other formats: choose another --out.")
