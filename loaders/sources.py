"""Where a converted set lies that is staged: a folder, or a URL that fsspec knows. A file that cannot be read, or is
not what the manifest says, is read again."""

from __future__ import annotations

import hashlib
import random
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote

from loaders.errors import InputError, one_line
from loaders.manifest import NAME, FileEntry

ATTEMPTS = 5
MAX_MANIFEST = 1 << 26  # bytes; one of 100,000 shards takes a third of them
_FIRST_S = 1.0  # before the second attempt; twice as long before each further one
_STALLED_S = 30.0  # without a byte from a web server
_PIECE = 1 << 20  # bytes
_BLOCK = 1 << 23  # bytes that an object store is asked for at once
# What another attempt does not mend.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

T = TypeVar("T")


class Stopped(Exception):
    """Whoever copies was told to end."""


class Unwritable(Exception):
    """The copy cannot be written, which is no fault of the source's."""


class _Differs(Exception):
    """What came is not what the manifest says."""


def is_url(where: str | Path) -> bool:
    """Whether it is a URL, as s3://bucket/set, and no path."""
    return isinstance(where, str) and "://" in where


def shown(where: str | Path) -> str:
    """How messages call it: without the name and password that a URL may hold."""
    return re.sub(r"//[^/@]*@", "//", str(where)).rstrip("/")


class Source:
    """Reads the files of a set. Safe to use from many threads.

    Args:
        where: its folder, or URL.

    Raises:
        InputError: for a URL that is unknown to fsspec, or needs a package that is not there.
    """

    def __init__(self, where: str | Path) -> None:
        self.where = where
        self._open = _opener(where) if isinstance(where, str) and is_url(where) else _folder_opener(Path(where))
        self._told: set[str] = set()

    def __str__(self) -> str:
        return shown(self.where)

    def read_manifest(self) -> bytes:
        """The bytes of the manifest.

        Raises:
            InputError: where it cannot be read, or is larger than MAX_MANIFEST.
        """

        def once() -> bytes:
            data = bytearray()
            with self._open(NAME) as file:
                while len(data) <= MAX_MANIFEST and (piece := file.read(_PIECE)):
                    data += piece
            return bytes(data)

        found = self._again(NAME, once, threading.Event())
        if len(found) > MAX_MANIFEST:
            raise InputError(f"{self}/{NAME} is longer than {MAX_MANIFEST:,} bytes: name a set of twistnet convert's.")
        return found

    def copy(self, entry: FileEntry, to: BinaryIO, stop: threading.Event) -> None:
        """Writes a file into another one, from its start on, and holds it to the manifest's size and SHA-256.

        Args:
            entry: what the manifest says of it; no more is read than a byte beyond its size.
            to: open for writing, and at most as long.
            stop: ends it.

        Raises:
            InputError: where no attempt could read it whole.
            Unwritable: where `to` cannot be written, as on a full disk.
            Stopped: where `stop` was set.
        """
        self._again(entry.name, lambda: self._copy_once(entry, to, stop), stop)

    def _copy_once(self, entry: FileEntry, to: BinaryIO, stop: threading.Event) -> None:
        to.seek(0)
        digest, copied = hashlib.sha256(), 0
        with self._open(entry.name) as file:
            while piece := file.read(min(_PIECE, entry.size - copied + 1)):
                if stop.is_set():
                    raise Stopped
                copied += len(piece)
                if copied > entry.size:
                    raise _Differs(f"it has more than the {entry.size:,} bytes that {NAME} says")
                digest.update(piece)
                try:
                    to.write(piece)
                except OSError as error:
                    raise Unwritable(one_line(error)) from error
        if copied < entry.size:
            raise _Differs(f"it ended after {copied:,} bytes where {NAME} says {entry.size:,}")
        if (found := digest.hexdigest()) != entry.sha256:
            raise _Differs(f"its SHA-256 is {found[:16]}... where {NAME} says {entry.sha256[:16]}...")

    def _again(self, name: str, once: Callable[[], T], stop: threading.Event) -> T:
        """Does it, and after growing pauses again; their jitter keeps many ranks from coming back together."""
        attempt = 1
        while True:
            try:
                return once()
            except (Stopped, Unwritable):
                raise
            except Exception as error:  # fsspec hands on whatever the packages below it raise
                reason = one_line(error if isinstance(error, _Differs) else f"{type(error).__name__}: {error}", 200)
                if isinstance(error, _FINAL) or attempt == ATTEMPTS:
                    times = f"in {attempt} attempts " if attempt > 1 else ""
                    raise InputError(
                        f"{self}/{name} cannot be read {times}({reason}): mend the set there, or name another one."
                    ) from error
                if name not in self._told:
                    self._told.add(name)
                    print(f"[Warning] {self}/{name} is read again ({reason}).", file=sys.stderr, flush=True)
            if stop.wait(_FIRST_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)):
                raise Stopped
            attempt += 1


def _folder_opener(folder: Path) -> Callable[[str], BinaryIO]:
    return lambda name: open(folder / name, "rb")


def _opener(url: str) -> Callable[[str], BinaryIO]:
    """Opens the files of a URL by their names."""
    import fsspec.core

    try:
        options = _web_options() if url.startswith(("http://", "https://")) else {}
        files, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise InputError(
            f"{shown(url)} needs a package that is missing ({one_line(error, 100)}): pip install 'twistnet[remote]'."
        ) from error
    except ValueError as error:
        raise InputError(f"{shown(url)} is no URL that fsspec knows ({one_line(error, 100)}): name another.") from error
    root = root.rstrip("/")

    def open_one(name: str) -> BinaryIO:
        if options:
            # One request for the whole file, as it comes: without a block size, and whatever size.
            file: BinaryIO = files.open(f"{root}/{quote(name)}", "rb", block_size=0, size=1)
        else:
            file = files.open(f"{root}/{name}", "rb", block_size=_BLOCK)
        return file

    return open_one


def _web_options() -> dict[str, object]:
    """Of fsspec's web client, which would give up on a file that takes longer than five minutes."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_STALLED_S, sock_read=_STALLED_S)
    return {"client_kwargs": {"timeout": timeout}}
