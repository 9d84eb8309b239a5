"""Joins the records of finished shards: the index, the quarantine list, and last of all the manifest."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.beton import write_beton
from convert.beton_policy import BetonPolicy
from convert.locking import one_at_a_time, take_shards
from convert.plan import PLAN, read_settings, records_of, settings_digest, shard_files, shard_name, unfinished_splits
from convert.shard import ShardRecord, read_record
from loaders.errors import InputError
from loaders.files import clear_unfinished, write_atomically
from loaders.manifest import FORMAT, NAME, FileEntry, is_converted, read_manifest

QUARANTINE = "quarantine.jsonl"


class TooManyBad(InputError):
    """More images were left out than --max_bad allows. All shards are finished; only the manifest lacks the split."""


def merge(out: Path, split: str, *, max_bad: float, workers: int) -> Mapping[str, Any]:
    """Joins the parts of a split. Arguments, result and errors are those of `finish`.

    Raises:
        InputError: also where another process still writes a part.
    """
    plan = _begun(out, split)
    with take_shards(records_of(out, split), range(plan["settings"]["shards"])):
        joined = read_manifest(out).values["splits"].get(split) if is_converted(out) else None
        if joined and joined.get("fingerprint") == plan["settings"]["source"]["fingerprint"]:
            remove_leftovers(out, split, joined)  # an earlier call was killed on its last steps
            return dict(joined)
        return finish(out, split, max_bad=max_bad, workers=workers)


def finish(out: Path, split: str, *, max_bad: float, workers: int) -> Mapping[str, Any]:
    """Makes a converted split of its shards, FFCV's file included where one is wanted.

    The caller holds the shards, by `convert.locking.take_shards`.

    Args:
        out: the converted set's folder.
        split: the split whose shards are all finished.
        max_bad: largest share of images that may have been left out, 0 to 1.
        workers: threads that decode for FFCV's file.

    Returns:
        The split's entry in the manifest.

    Raises:
        TooManyBad: where too many images were left out.
        InputError: where shards are missing, or the folder holds a set that this split does not belong to. Everything
            that was written stays.
        OSError: where the disk fails.
    """
    plan = _begun(out, split)
    settings = plan["settings"]
    records = finished_records(out, split, settings["shards"])
    _check_records(out, records, settings)
    bad = [entry for record in records for entry in record.bad]
    with one_at_a_time(out):
        quarantine = write_quarantine(out, split, bad)
        if is_converted(out):  # of other splits, for which the list has to be the one that is there
            _write_manifest(out, {**read_manifest(out).values, "quarantine": asdict(quarantine)})
    if len(bad) > max_bad * settings["samples"]:
        raise TooManyBad(
            f"{len(bad)} of {settings['samples']} images of {split} cannot be used, more than --max_bad {max_bad}: "
            f"{out / QUARANTINE} lists them; allow more and start again, or repair them and choose another --out."
        )
    beton = write_beton(out, split, records, BetonPolicy(**settings["beton"]), workers) if settings["beton"] else None
    rows = np.concatenate([record.rows for record in records])
    repaired = {key: what for record in records for key, what in record.repaired.items()}
    index = _write_array(out, f"{split}.index.npy", rows)
    subsets = _subsets(out, split, plan["subsets"], np.concatenate([record.places for record in records]))
    entry = {
        "source": settings["source"]["kind"],
        "versions": settings["versions"],
        "samples": len(rows),
        "per_class": np.bincount(rows["label"], minlength=len(plan["classes"])).tolist(),
        "bytes": int(rows["length"].sum(dtype=np.uint64)),
        "largest": [int(rows["height"].max(initial=0)), int(rows["width"].max(initial=0))],
        "repaired": dict(sorted(Counter(repaired.values()).items())),
        "repaired_list": asdict(_write_repaired(out, split, repaired)) if repaired else None,
        "quarantined": len(bad),
        "fingerprint": settings["source"]["fingerprint"],
        "index": asdict(index),
        "shards": [asdict(record.entry) for record in records if settings["keep_shards"]],
        "dali": [asdict(record.idx) for record in records if settings["keep_shards"]],
        "beton": {**asdict(beton), "policy": settings["beton"]} if beton else None,
    }
    with one_at_a_time(out):
        manifest = manifest_for(out, settings, plan["classes"])
        manifest["splits"] = dict(sorted({**manifest["splits"], split: entry}.items()))
        manifest["subsets"] = {**manifest["subsets"], **subsets}
        # Another split may have written its part of the list since.
        manifest["quarantine"] = asdict(write_quarantine(out, split, bad))
        _write_manifest(out, manifest)
    remove_leftovers(out, split, entry)
    return entry


def remove_leftovers(out: Path, split: str, entry: Mapping[str, Any]) -> None:
    """Removes what only an unfinished conversion needs: the records, and tars that the manifest does not name."""
    named = {item["name"] for item in (*entry["shards"], *entry["dali"])}
    for path in shard_files(out, split):
        if path.name not in named:
            path.unlink()
    records = records_of(out, split)
    for path in records.glob("*"):
        if path.name != PLAN:  # which says until the last that there is something to remove
            path.unlink()
    shutil.rmtree(records, ignore_errors=True)
    # Not while another process may be writing there; nor in a folder that is read only, for nothing.
    if not unfinished_splits(out) and any(out.glob(".*")):
        with one_at_a_time(out):
            clear_unfinished(out)


def _begun(out: Path, split: str) -> dict[str, Any]:
    plan = read_settings(out, split)
    if plan is None:
        raise InputError(f"{out} holds no conversion of {split} that was begun: run twistnet convert first.")
    return plan


def finished_records(out: Path, split: str, num_shards: int) -> list[ShardRecord]:
    """The records of all shards of a split.

    Raises:
        InputError: where some are missing.
    """
    names = [shard_name(split, number) for number in range(num_shards)]
    found = [read_record(out, records_of(out, split), name) for name in names]
    missing = [name for name, record in zip(names, found, strict=True) if record is None]
    if missing:
        raise InputError(
            f"{len(missing)} of {num_shards} shards of {split} are missing, the first {missing[0]}: run the parts that "
            f"write them, and copy what they wrote, {records_of(out, split).name} included, into {out}."
        )
    return [record for record in found if record is not None]


def _check_records(out: Path, records: Sequence[ShardRecord], settings: Mapping[str, Any]) -> None:
    """Raises InputError where the shards do not belong together: parts may have been copied from anywhere."""
    wanted = settings_digest(settings)
    for record in records:
        if record.settings != wanted:
            raise InputError(
                f"{out / record.entry.name} was converted with other settings than the rest: run its part again with "
                "the same flags and versions."
            )
    places = [record.places for record in records]
    places.append(np.array([entry["place"] for record in records for entry in record.bad], dtype=np.int64))
    if not np.array_equal(np.sort(np.concatenate(places)), np.arange(settings["samples"])):
        raise InputError(f"the shards in {out} do not hold every image once: convert into an empty folder.")


def _write_repaired(out: Path, split: str, repaired: Mapping[str, str]) -> FileEntry:
    """Writes which images were repaired, and what they were: not into the manifest, which every opening reads."""
    lines = (json.dumps({"key": key, "was": what}) + "\n" for key, what in sorted(repaired.items()))
    return _write(out, f"{split}.repaired.jsonl", "".join(lines).encode())


def write_quarantine(out: Path, split: str, bad: Sequence[Mapping[str, Any]]) -> FileEntry:
    """Writes what was left out of a split, a JSON object a line, beside what other splits left out.

    Raises:
        InputError: where the file that is there is no such list.
    """
    path = out / QUARANTINE
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        kept = [line for line in lines if json.loads(line)["split"] != split]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} has a line that is no image left out ({error}): move it away.") from error
    kept += [json.dumps({"split": split, **{key: entry[key] for key in ("key", "path", "reason")}}) for entry in bad]
    return _write(out, QUARANTINE, "".join(f"{line}\n" for line in sorted(kept)).encode())


def manifest_for(out: Path, settings: Mapping[str, Any], classes: list[str]) -> dict[str, Any]:
    """The manifest to add a split to: that of the folder, or a new one.

    Args:
        out: the converted set's folder.
        settings: `convert.plan.Plan.settings` of the split.
        classes: of the split.

    Raises:
        InputError: where the folder's set was converted otherwise.
    """
    wanted = {
        "format": FORMAT,
        "images": settings["images"],
        "quality": settings["quality"],
        "exif": "ignored",
        "seed": settings["seed"],
        "classes": classes,
    }
    path = out / NAME
    if not path.exists():
        return {**wanted, "splits": {}, "subsets": {}, "quarantine": None}
    held = dict(read_manifest(out).values)
    for name in ("format", "images", "quality", "seed", "classes"):
        if held.get(name) != wanted[name]:
            shown = [f"{len(v)} classes" if isinstance(v, list) else v for v in (held.get(name), wanted[name])]
            raise InputError(f"{path} has {name} {shown[0]}, this split {shown[1]}: choose another --out.")
    return held


def _subsets(
    out: Path, split: str, subsets: Mapping[str, list[int]], places: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """The scan's named selections as ids of the converted set, in their own order; what was bad is left out."""
    if not subsets:
        return {}
    ids = np.full(int(max(places.max(initial=0), *(max(chosen, default=0) for chosen in subsets.values()))) + 1, -1)
    ids[places] = np.arange(len(places))
    found = {}
    for name, chosen in subsets.items():
        selected = ids[np.array(chosen, dtype=np.int64)]
        entry = _write_array(out, f"{name}.ids.npy", selected[selected >= 0].astype(np.int64))
        found[name] = {"split": split, "ids": asdict(entry)}
    return found


def _write_manifest(out: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=1) + "\n"
    write_atomically(out / NAME, lambda file: file.write(text.encode()))


def _write_array(out: Path, name: str, values: npt.NDArray[Any]) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return _write(out, name, buffer.getvalue())


def _write(out: Path, name: str, data: bytes) -> FileEntry:
    write_atomically(out / name, lambda file: file.write(data))
    return FileEntry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
