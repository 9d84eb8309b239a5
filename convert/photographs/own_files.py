"""Files that a made set consists of, by its manifest: nothing else is ever removed, and what is whole is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.photographs.cutting import Cut, write_images
from loaders.errors import InputError
from loaders.files import write_atomically


def make(
    out: Path,
    name: str,
    folders: Sequence[str],
    manifest: Mapping[str, Any],
    cuts: Sequence[Cut],
    labels: Mapping[str, str],
    files: dict[str, Path],
    progress: bool,
) -> bool:
    """Writes images, lists and manifest, or keeps those that are there; what an interrupted call left is written anew.

    Args:
        out: the set's folder; made where it does not exist.
        name: of the manifest's file, `<set>.json`.
        folders: in `out` that are the set's own.
        manifest: all that decides what is written; its "images" and "labels" name the files.
        labels: path -> text of every list.
        files: where each photograph is.

    Returns:
        Whether all was there already.

    Raises:
        InputError: a file that was not written here is in the way, or nothing can be written.
    """
    unfinished = f"{name.removesuffix('.json')}.unfinished.json"
    paths = [*manifest["images"], *manifest["labels"]]
    if _read_manifest(out / name) == manifest and all((out / path).is_file() for path in paths):
        return True
    _remove_ours(out, (name, unfinished), folders)
    _write_manifest(out / unfinished, manifest)
    write_images(out, cuts, files, progress)
    for path, text in labels.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text(text, encoding="ascii")
    os.replace(out / unfinished, out / name)
    return False


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest at `path`, or None where there is none."""
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest["images"], dict) and isinstance(manifest["labels"], list):
            return dict(manifest)
    except (OSError, ValueError, TypeError, LookupError):
        pass
    raise InputError(f"{path} is not a manifest of the demo's sets: move it away or choose another folder.")


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(manifest)
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written ({error.strerror}): choose another folder.") from error


def _remove_ours(out: Path, names: Sequence[str], folders: Sequence[str]) -> None:
    """Remove what an earlier call wrote, going by its manifest; refuse before anything is removed if more is there."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: name a folder, which is made where it does not exist.")
    manifests = [out / name for name in names]
    ours: set[Path] = set()
    for manifest in filter(None, map(_read_manifest, manifests)):
        ours.update(out / path for path in (*manifest["images"], *manifest["labels"]))
    found = [path for folder in folders for path in _below(out / folder)]
    foreign = [path for path in found if path not in ours and (path.is_symlink() or not path.is_dir())]
    if foreign:
        raise InputError(f"{foreign[0]} is in the way and was not written here: move it away or choose another folder.")
    for path in found:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    for path in manifests:
        path.unlink(missing_ok=True)


def _below(folder: Path) -> Iterator[Path]:
    """Everything at and below a folder, contents before their folder; symbolic links are listed, never followed."""
    if folder.is_symlink() or not folder.is_dir():
        if os.path.lexists(folder):
            yield folder
        return
    for child in sorted(folder.iterdir()):
        yield from _below(child)
    yield folder
