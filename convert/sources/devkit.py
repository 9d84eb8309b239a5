"""The ILSVRC2012 development kit: which class each validation image has.

The ground truth holds ILSVRC ids, which are not in the order of the WordNet ids that labels follow. So every id goes
through meta.mat: ILSVRC id -> WordNet id -> place among the sorted WordNet ids.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import InputError, one_line

META = "data/meta.mat"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
ARCHIVES = "ILSVRC2012_devkit_t12*.tar.gz"
# Facts of the real kit, which hold only if the ids are read rightly.
_CLASSES, _FIRST_ID, _FIRST_SORTED = 1000, "n02119789", "n01440764"  # kit fox, tench
_LIMIT = 256 << 20  # bytes that are unpacked at most: the real kit has a few millions
_NUMBER = re.compile(r"_(\d{8})\.[^.]+$")
_AGAIN = "download ILSVRC2012_devkit_t12.tar.gz again"


@dataclass(frozen=True, slots=True)
class Devkit:
    """The kit, read.

    Attributes:
        where: what it was read from.
        classes: sorted WordNet ids of the classes.
        by_id: ILSVRC id, from 1 on -> WordNet id.
        truth: (N,) the WordNet id of every validation image, in the order of their file names.
    """

    where: Path
    classes: tuple[str, ...]
    by_id: Mapping[int, str]
    truth: tuple[str, ...]

    def classes_of(self, names: Sequence[str], where: str) -> list[str]:
        """The WordNet id of every validation image.

        Args:
            names: sorted file names of all validation images.
            where: what holds them, for the message.

        Raises:
            InputError: where they are not as many as the ground truth has, or not numbered as it is.
        """
        if len(names) != len(self.truth):
            raise InputError(
                f"{where} holds {len(names):,} validation images where the ground truth in {self.where} has "
                f"{len(self.truth):,}: both must be whole, so fetch what is missing."
            )
        # With one file missing and a stray one added the count agrees, and half of the labels would be wrong.
        for number, name in enumerate(names, 1):
            found = _NUMBER.search(name)
            if found and int(found[1]) != number:
                raise InputError(
                    f"{where} has {name} as validation image {number:,} in the order of names, which its number "
                    "contradicts: restore the missing images and remove stray ones."
                )
        return list(self.truth)


def find_devkit(folder: Path) -> Path | None:
    """The kit in a folder, extracted or as downloaded; None where there is none."""
    if not folder.is_dir():
        return None
    for child in (folder, *sorted(child for child in folder.iterdir() if child.is_dir())):
        if (child / META).is_file() and (child / TRUTH).is_file():
            return child
    return min((path for path in folder.glob(ARCHIVES) if path.is_file()), default=None)


def require_devkit(folder: Path, given: Path | None) -> Devkit:
    """Reads the kit that was given, or else the one in the folder.

    Raises:
        InputError: where there is none, or as `read_devkit`.
    """
    found = given or find_devkit(folder)
    if found is None:
        raise InputError(
            f"{folder} holds no ILSVRC2012_devkit_t12.tar.gz, without which its validation images have no labels: "
            "put it there or name it with --devkit."
        )
    return read_devkit(found)


def read_devkit(path: Path) -> Devkit:
    """Reads the classes and the ground truth; nothing is written to the disk.

    Args:
        path: the .tar.gz as downloaded, or a folder that holds data/ or holds the kit.

    Raises:
        InputError: where it is missing, torn or not the kit, or scipy is not installed.
    """
    meta, truth = _from_folder(path) if path.is_dir() else _from_archive(path)
    by_id = _leaves(meta, path)
    classes = tuple(sorted(by_id.values()))
    if len(set(classes)) != len(classes) or sorted(by_id) != list(range(1, len(by_id) + 1)):
        raise InputError(f"{META} of {path} does not number {len(classes)} different classes from 1 on: {_AGAIN}.")
    if len(classes) == _CLASSES and (by_id[1], classes[0]) != (_FIRST_ID, _FIRST_SORTED):
        raise InputError(
            f"{META} of {path} has {by_id[1]} as ILSVRC id 1 and {classes[0]} as first of the sorted ids, where "
            f"ILSVRC2012 has {_FIRST_ID} and {_FIRST_SORTED}: {_AGAIN}."
        )
    try:
        # `int` alone would take +1, 1_0 and digits of other scripts.
        ids = [int(line) if line.isdigit() else 0 for line in truth.decode("ascii").split()]
        return Devkit(path, classes, by_id, tuple(by_id[number] for number in ids))
    except (ValueError, KeyError) as error:
        raise InputError(f"{TRUTH} of {path} holds more than ids from 1 to {len(classes)}: {_AGAIN}.") from error


def _from_folder(path: Path) -> tuple[bytes, bytes]:
    found = find_devkit(path)
    if found is None:
        raise InputError(f"{path} holds neither {META} with {TRUTH} nor {ARCHIVES}: name the development kit's folder.")
    if not found.is_dir():
        return _from_archive(found)
    try:
        return (found / META).read_bytes(), (found / TRUTH).read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): {_AGAIN}.") from error


def _from_archive(path: Path) -> tuple[bytes, bytes]:
    try:
        with gzip.open(path) as file:
            unpacked = file.read(_LIMIT + 1)
        if len(unpacked) > _LIMIT:
            raise InputError(
                f"{path} unpacks to more than {_LIMIT >> 20} MiB, which no development kit does: {_AGAIN}."
            )
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            return _content(tar, META, path), _content(tar, TRUTH, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {_AGAIN}.") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole .tar.gz ({error}): {_AGAIN}.") from error


def _content(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    for member in tar:
        if member.isreg() and f"/{member.name}".endswith(f"/{name}"):
            file = tar.extractfile(member)
            if file is not None:
                return file.read()
    raise InputError(f"{path} holds no {name}: {_AGAIN}.")


def _leaves(meta: bytes, path: Path) -> dict[int, str]:
    """ILSVRC id -> WordNet id of the synsets that are classes: those without children."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError("reading the devkit needs scipy: pip install 'twistnet[convert]'") from error
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        leaves = synsets[synsets["num_children"].astype(int) == 0]
        found = [(int(number), str(wnid)) for number, wnid in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)]
    # scipy raises errors of many kinds, whatever the torn bytes lead to.
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"{META} of {path} cannot be read ({reason}): {_AGAIN}.") from error
    if not found or len(dict(found)) != len(found):
        raise InputError(f"{META} of {path} gives {len(found)} classes, or two of them one id: {_AGAIN}.")
    return dict(found)
