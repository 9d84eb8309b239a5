"""Which sample goes to which shard: settled before the first byte is written, so that any run of it writes the same."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features

from convert.beton_policy import BetonPolicy
from convert.images import ImagePolicy
from convert.scan import Ints, Scan
from convert.shard import ShardTask
from launch.version import VERSION
from loaders.errors import InputError
from loaders.files import write_atomically
from loaders.order import Order

PLAN = "plan.json"
_UNFINISHED = ".unfinished"
_SPACE = re.compile(r"\s")
_SETTINGS = {"source", "split", "samples", "shards", "keep_shards", "beton"}  # what joining the shards needs


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A conversion of one split.

    Attributes:
        scan: what the source holds.
        out: where the converted set goes.
        policy: what is stored of an image.
        seed: of the order.
        num_shards: how many tars.
        beton: how images lie in FFCV's file; None writes none.
        keep_shards: whether the tars stay where a beton was made of them.
    """

    scan: Scan
    out: Path
    policy: ImagePolicy
    seed: int
    num_shards: int
    beton: BetonPolicy | None = None
    keep_shards: bool = True

    def __post_init__(self) -> None:
        held: dict[str, str] = {}
        for key in filter(_SPACE.search, self.scan.keys):
            held.setdefault(_SPACE.sub("_", key), key)
        # Members of one name would be lost to whatever reads the tar by name.
        for key in self.scan.keys if held else ():
            if held.get(_SPACE.sub("_", key), key) != key:
                raise InputError(
                    f"{self.scan.root} has the images {key!r} and {held[_SPACE.sub('_', key)]!r}, which are one name "
                    "in a shard, where spaces are written as _: rename one."
                )

    @property
    def records(self) -> Path:
        """Where the records of finished shards are kept until all are there."""
        return records_of(self.out, self.scan.split)

    def tasks(self) -> Iterator[ShardTask]:
        """The shards, which differ by one sample at most."""
        scan, order, settings = self.scan, shuffled(len(self.scan), self.seed), settings_digest(self.settings)
        bounds = np.linspace(0, len(scan), self.num_shards + 1).astype(np.int64)
        for number in range(self.num_shards):
            members = (scan.member(int(place)) for place in order[bounds[number] : bounds[number + 1]])
            yield ShardTask(
                number=number,
                name=shard_name(scan.split, number),
                root=scan.root,
                out=self.out,
                records=self.records,
                policy=self.policy,
                settings=settings,
                # DALI's index has spaces between its fields.
                members=[member._replace(key=_SPACE.sub("_", member.key)) for member in members],
            )

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides what is written, as plain values."""
        return {
            "source": {"kind": self.scan.kind, "fingerprint": self.scan.fingerprint},
            "split": self.scan.split,
            "samples": len(self.scan),
            "images": str(self.policy),
            "quality": self.policy.quality,
            "seed": self.seed,
            "shards": self.num_shards,
            "keep_shards": self.keep_shards,
            "beton": asdict(self.beton) if self.beton else None,
            "versions": versions(encodes=self.policy.rule != "original", ffcv=self.beton is not None),
        }

    def begin(self) -> None:
        """Makes the folders and writes the settings down, or finds the same ones there.

        Raises:
            InputError: where another conversion was begun there, files of other origin are in the way, or the folders
                cannot be made.
        """
        wanted = self.settings
        held = read_settings(self.out, self.scan.split)
        split = self.scan.split
        foreign = [] if held else [*shard_files(self.out, split), *self.out.glob(f"{glob.escape(split)}.beton")]
        if foreign:
            raise InputError(
                f"{foreign[0]} is in the way and would be overwritten, as no conversion that is going on has written "
                "it: choose another --out, or remove it."
            )
        try:
            self.records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {self.out} cannot be made ({error.strerror}): choose another --out.") from error
        if held is None:
            subsets = {name: [int(place) for place in places] for name, places in self.scan.subsets.items()}
            values = {"settings": wanted, "classes": list(self.scan.classes), "subsets": subsets}
            text = json.dumps(values, indent=1) + "\n"
            write_atomically(self.records / PLAN, lambda file: file.write(text.encode()))
            return
        for name, value in wanted.items():
            if held["settings"].get(name) != value:
                raise InputError(
                    f"{self.out} holds a conversion of {self.scan.split} begun with {name} "
                    f"{held['settings'].get(name)}, not {value}: finish that one, or choose another --out."
                )


def shuffled(samples: int, seed: int) -> Ints:
    """(N,) places in a scan, in the order of the converted set: shuffled over all classes."""
    return Order(num_samples=samples, global_batch=samples, shuffle="global", seed=seed).batch(0, 0)[0]


def versions(*, encodes: bool, ffcv: bool) -> dict[str, str]:
    """Of what decides the bytes that are written, which machines that share the work must agree on.

    Args:
        encodes: whether images are made smaller; repairs are Pillow's in any case.
        ffcv: whether FFCV writes a file.
    """
    found = {"twistnet": VERSION, "libjpeg_turbo": str(features.version("libjpeg_turbo"))}
    for name in ("pillow", *(("torch", "torchvision") if encodes else ()), *(("ffcv",) if ffcv else ())):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of `Plan.settings`: every shard's record has it, so that only those of one conversion are joined."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def records_of(out: Path, split: str) -> Path:
    """The folder of a split's records."""
    return out / f".{split}{_UNFINISHED}"


def unfinished_splits(out: Path) -> list[str]:
    """The splits whose conversion was begun in a folder and is not finished."""
    return sorted(path.parent.name[1:].removesuffix(_UNFINISHED) for path in out.glob(f".*{_UNFINISHED}/{PLAN}"))


def read_settings(out: Path, split: str) -> dict[str, Any] | None:
    """What `Plan.begin` has written: settings, classes and subsets; None where nothing was begun."""
    try:
        found: dict[str, Any] = json.loads((records_of(out, split) / PLAN).read_text())
        missing = {"settings", "classes", "subsets"} - found.keys() or _SETTINGS - found["settings"].keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        if not isinstance(found["settings"]["shards"], int) or "fingerprint" not in found["settings"]["source"]:
            raise ValueError("its shards or its source are none")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError, TypeError) as error:
        torn = records_of(out, split) / PLAN
        raise InputError(f"{torn} is torn ({error}): copy it again, or convert into an empty folder.") from error
    return found


def shard_name(split: str, number: int) -> str:
    """`train-000003.tar`."""
    return f"{split}-{number:06d}.tar"


def shard_files(out: Path, split: str) -> list[Path]:
    """The tars of a split and DALI's indexes, sorted: by their names, whoever has written them."""
    name = f"{glob.escape(split)}-{'[0-9]' * 6}"
    return sorted(path for suffix in ("tar", "idx") for path in out.glob(f"{name}.{suffix}"))


def num_shards(total_bytes: int, samples: int, target_bytes: int, least: int) -> int:
    """How many shards: near the target size, at least `least` of them, none of them empty."""
    return max(1, min(samples, max(least, -(-total_bytes // target_bytes))))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()
