"""Files that are either complete or absent, whenever the process is killed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name in the same folder, sync it to the disk, and move it into place.

    A reader sees the old file or the whole new one. When `write` raises, the old file stays and nothing is left over.

    Args:
        path: the file; its folder must exist.
        write: gets the open binary file and writes the content.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    target = Path(path)
    temporary = _temporary(target)
    try:
        # Not tempfile: its files are readable by their owner alone, whatever the umask says.
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, target)
    except BaseException as raised:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        # torch's writer hides that the disk was full behind an error of its own.
        met = raised.__context__
        while met is not None and not isinstance(met, OSError):
            met = met.__context__
        if met is not None and isinstance(raised, RuntimeError):
            raise met from raised
        raise


def move(source: Path, target: Path) -> None:
    """Gives a file another name on the same disk, in place of what had it before, so that a power cut keeps that."""
    os.replace(source, target)
    _sync_folder(target.parent)


def link(source: Path, target: Path) -> None:
    """Makes a name the same file as another, at once, in place of what had it; a copy where the disk has no links."""
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:
        with source.open("rb") as file:
            write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # where both were one file already, renaming does nothing


def take_lock(path: Path, *, wait: bool = False) -> TextIO:
    """An open file that no other process can take until it is closed or this process has ended, however it ends.

    Args:
        path: the file, which is made where it is missing.
        wait: until it is free.

    Raises:
        BlockingIOError: another one holds it, and `wait` is false.
        OSError: the file cannot be made.
    """
    while True:
        file = path.open("a")
        try:
            with explained_locks(path):
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass  # the one before has removed it
        except BaseException:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def explained_locks(path: Path) -> Iterator[None]:
    """Says which file it is, and what to do, where a file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
            raise
        reason = f"its file system has no locks ({error.strerror}): mount it with them (-o flock), or choose another"
        raise OSError(error.errno, reason, str(path)) from error


def clear_unfinished(folder: Path, of: Callable[[str], bool] = lambda _: True) -> None:
    """Removes the temporary files of `write_atomically` that killed processes have left in a folder.

    Args:
        folder: where to look; not in folders below it.
        of: given the name of the file that was to be, whether it is meant.
    """
    for path in folder.glob(f".*.{'[0-9a-f]' * 32}.tmp"):
        if of(path.name[1 : -len(".tmp") - 33]):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target`, whatever is there, once all of it is on the disk.

    A reader sees the old folder or the whole new one. Where the block raises, the old one stays and nothing is left
    over; what killed processes have left beside it is removed.

    Args:
        target: the folder; the one above it is made where it is missing.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    target = target.resolve()  # of a link to it, too
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 32}.tmp"):
        if left.is_dir() and (unused := _locked(left)) is not None:
            shutil.rmtree(left)
            os.close(unused)
    filling = _temporary(target)
    filling.mkdir()
    lock = _locked(filling)
    try:
        yield filling
        for path in (*filling.rglob("*"), filling):
            _sync(path)
        if target.exists():
            _exchange(filling, target)
        else:
            os.rename(filling, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(filling, ignore_errors=True)  # what was not finished, or the folder of before
        if lock is not None:
            os.close(lock)


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def is_same(one: Path, other: Path) -> bool:
    """Whether both are there and are one file or folder, by whatever names."""
    return one.exists() and other.exists() and one.samefile(other)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def _locked(folder: Path) -> int | None:
    """A descriptor by which the folder is this process's until it is closed; None where another one has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # or the file system has no locks: then what is left over stays
        os.close(descriptor)
        return None
    return descriptor


def _exchange(one: Path, other: Path) -> None:
    """Gives two folders each other's name, at once where the system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return
    aside = _temporary(other)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def _sync(path: Path) -> None:
    if path.is_dir():
        _sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; the file itself is written all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
