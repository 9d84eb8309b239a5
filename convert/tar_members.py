"""Where the members of an uncompressed tar lie, from its headers alone: the payload is neither read nor extracted.

Understands the v7, ustar, GNU and pax formats. A tar within a tar is listed in place. Whatever could lead outside a
folder, or could be read in two ways, is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from loaders.errors import InputError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_EXTENDED = 1 << 20  # bytes of a long name or of pax records: more is no file name
_MAX_TAIL = 1 << 20  # bytes after the end mark that are looked at: GNU tar pads to 10 kB
_AGAIN = "download or pack it again"

# Type flags, as they stand in byte 156 of a header.
_REGULAR = frozenset(b"0\0" + b"7")
_OLD_REGULAR = 0
_DIRECTORY = ord("5")
_LONG_NAME = ord("L")
_LONG_LINK = ord("K")
_PAX = frozenset(b"xX")
_PAX_GLOBAL = ord("g")
_REFUSED = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a named pipe",
    ord("S"): "a sparse file",
}


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: relative, without `.`, `..` and doubled slashes; bytes that are no UTF-8 are surrogate escapes.
        offset: where its data begins in the outermost tar.
        length: of its data, in bytes.
    """

    name: str
    offset: int
    length: int


class _Extended(NamedTuple):
    """What the headers before a member's own say of it."""

    name: str | None = None
    size: int | None = None


_NOTHING = _Extended()


def tar_members(path: Path, within: Member | None = None) -> Iterator[Member]:
    """Lists the regular members in the order of the tar; directories are passed over.

    Args:
        path: an uncompressed tar.
        within: a member of it that is a tar itself: lists that one, with offsets in `path`.

    Raises:
        InputError: for a link, a device, an absolute name, `..`, a name that occurs twice, a bad checksum, a member
            that ends after the file, data after the end, or a file that cannot be read. The sentence names tar and
            member. A missing end mark is accepted after a whole last member, as tarfile does.
    """
    tar = f"{path}:{within.name}" if within else str(path)
    try:
        with open(path, "rb", buffering=0) as file:
            # Without this the kernel reads 128 kB ahead of every header: nearly the whole archive.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            start, end = 0, os.fstat(file.fileno()).st_size
            if within:
                start, end = within.offset, within.offset + within.length
            yield from _walk(file.fileno(), tar, start, end)
    except OSError as error:
        raise InputError(f"{tar} cannot be read ({error.strerror or error}): check the path and the disk.") from error


def _walk(fd: int, tar: str, start: int, end: int) -> Iterator[Member]:
    # The loop runs 1.3 million times for ImageNet: what happens to every member is written out here.
    pread, regular = os.pread, _REGULAR
    seen: set[str] = set()
    extended = _NOTHING
    offset, last = start, ""
    while offset + _BLOCK <= end:
        header = pread(fd, _BLOCK, offset)
        if len(header) < _BLOCK:
            raise InputError(f"{tar} became shorter at byte {offset - start:,} while it was read: let it rest.")
        if not header[0] and header == _ZEROS:
            _check_tail(fd, tar, start, offset, end)
            break
        # Most of a header is zeros, which add nothing: without them the sum is four times as fast.
        stored = header[148:156]
        if sum(header.replace(b"\0", b"")) - sum(stored) + 256 != _octal(stored):
            _check_signed(header, tar, offset - start, last)
        kind = header[156]
        size = _octal(header[124:136])
        if size < 0:
            _refuse(tar, _own_name(header), "has a size that is no number", _AGAIN)
        data = offset + _BLOCK
        if kind in regular:
            name = _own_name(header) if extended.name is None else extended.name
            if extended.size is not None:
                size = extended.size
            if name[-1:] == "/" and kind == _OLD_REGULAR:  # how v7 wrote a directory
                offset = data
            else:
                offset = data + (size + _BLOCK - 1) // _BLOCK * _BLOCK
                if offset > end:
                    _refuse(tar, name, f"needs {offset - start:,} bytes where the tar has {end - start:,}", _AGAIN)
                if "/" in name or name[:1] == ".":
                    name = _plain(tar, name)
                if not name:
                    _refuse(tar, name, "has no name", _AGAIN)
                if name in seen:
                    _refuse(tar, name, "occurs twice", "pack it again with unique names")
                seen.add(name)
                last = name
                yield Member(name, data, size)
            extended = _NOTHING
        elif kind == _DIRECTORY:
            offset, extended = data, _NOTHING  # its size, where it has one, is no data
        else:
            if kind in _REFUSED:
                name = _own_name(header) if extended.name is None else extended.name
                _refuse(tar, name, f"is {_REFUSED[kind]}", "pack it again with regular files only")
            offset = data + (size + _BLOCK - 1) // _BLOCK * _BLOCK
            if offset > end or size > _MAX_EXTENDED:
                _refuse(tar, _own_name(header), f"has an extended header of {size:,} bytes", _AGAIN)
            extended = _extend(extended, kind, header, pread(fd, size, data), tar)
    else:
        if offset == start or offset != end:
            raise InputError(f"{tar} is empty or cut at byte {end - start:,}, within a header: {_AGAIN}.")
    if extended != _NOTHING:
        raise InputError(f"{tar} ends after the extended header of a member that is missing: {_AGAIN}.")


def _octal(field: bytes) -> int:
    """A number of a header, octal or (GNU) base 256; -1 where it is none."""
    digits = field.partition(b"\0")[0].strip()
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError:
            return -1
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return -1 if digits else 0


def _own_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    # GNU tar keeps times where ustar has the front part of a long name.
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _plain(tar: str, name: str) -> str:
    """The name without `.` and doubled slashes."""
    if name[0] == "/":
        _refuse(tar, name, "has an absolute name", "pack it again with relative names")
    if name[-1] == "/":
        _refuse(tar, name, "is a file with the name of a folder", _AGAIN)
    parts = name.split("/")
    if ".." in parts:
        _refuse(tar, name, "leads out of the folder", "pack it again without .. in its names")
    return "/".join(part for part in parts if part not in ("", "."))


def _check_signed(header: bytes, tar: str, place: int, last: str) -> None:
    """Old tars added bytes as signed numbers; else the header is not one."""
    total = sum(header) - sum(header[148:156]) + 256
    high = sum(byte >= 0x80 for byte in header[:148] + header[156:])
    if total - 256 * high == _octal(header[148:156]):
        return
    if place == 0:
        compressed = header[:2] == b"\x1f\x8b" or header[:6] == b"\xfd7zXZ\0" or header[:3] == b"BZh"
        hint = "decompress it first" if compressed else "name an uncompressed tar, or download it again"
        raise InputError(f"{tar} is no tar, as the checksum of its first header is wrong: {hint}.")
    after = f"after member {last!r}" if last else "of its first member"
    raise InputError(f"{tar} has a header with a wrong checksum at byte {place:,}, {after}: {_AGAIN}.")


def _check_tail(fd: int, tar: str, start: int, offset: int, end: int) -> None:
    """A tar appended to another would be lost without a word."""
    tail = os.pread(fd, min(end - offset, _MAX_TAIL), offset)
    if tail.strip(b"\0"):
        raise InputError(
            f"{tar} has data after its end mark at byte {offset - start:,}, as joined tars have: "
            "split it, or pack it again."
        )


def _extend(before: _Extended, kind: int, header: bytes, data: bytes, tar: str) -> _Extended:
    """Adds what an extended header says to what those before it said of the same member."""
    if kind == _LONG_LINK:
        return before  # the link itself is refused
    if kind == _LONG_NAME:
        found = _Extended(name=data.partition(b"\0")[0].decode("utf-8", "surrogateescape"))
    elif kind in _PAX or kind == _PAX_GLOBAL:
        try:
            records = _pax_records(data)
            size = int(records[b"size"]) if b"size" in records else None
        except ValueError:
            _refuse(tar, _own_name(header), "has torn pax records", _AGAIN)
        path = records.get(b"path")
        found = _Extended(None if path is None else path.decode("utf-8", "surrogateescape"), size)
        if any(key.startswith(b"GNU.sparse.") for key in records):
            _refuse(tar, found.name or _own_name(header), "is a sparse file", "pack it again without --sparse")
        if size is not None and size < 0:
            _refuse(tar, found.name or _own_name(header), f"has a size of {size}", _AGAIN)
        if kind == _PAX_GLOBAL and found != _NOTHING:
            _refuse(tar, _own_name(header), "gives all members one name or size", _AGAIN)
    else:
        _refuse(tar, _own_name(header), f"is of the unknown type {chr(kind)!r}", "pack it again with GNU tar")
    if (before.name is not None and found.name is not None) or (before.size is not None and found.size is not None):
        _refuse(tar, str(found.name), "has two long names or sizes", _AGAIN)
    return _Extended(
        before.name if found.name is None else found.name, before.size if found.size is None else found.size
    )


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Parses `<length> <key>=<value>\\n`, where the length is that of all of it. ValueError where it is torn."""
    records: dict[bytes, bytes] = {}
    place = 0
    while place < len(data) and data[place]:
        space = data.index(b" ", place)
        stop = place + int(data[place:space])
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if stop <= space + 1 or data[stop - 1 : stop] != b"\n" or not equals:
            raise ValueError("torn record")
        records[key] = value
        place = stop
    return records


def _refuse(tar: str, name: str, problem: str, step: str) -> NoReturn:
    raise InputError(f"{tar}: member {name!r} {problem}: {step}.")
