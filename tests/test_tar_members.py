"""The tar lister against tarfile, which reads the same tars another way; and every kind of tar that it must refuse."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ilsvrc import add, tar_of

from convert.tar_members import Member, tar_members
from loaders.errors import InputError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SMALL = {"one.jpg": b"1" * 700, "two.jpg": b"2" * 512, "three.jpg": b""}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def as_tarfile_lists(data: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]


parts = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=40)
names = st.lists(parts.filter(lambda part: part not in (".", "..")), min_size=1, max_size=6).map("/".join)
contents = st.dictionaries(names, st.binary(max_size=1300), max_size=6)


@settings(max_examples=150, deadline=None)
@given(content=contents, format=st.sampled_from(list(FORMATS.values())), mark=st.booleans())
def test_lists_what_tarfile_lists(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, bytes], format: int, mark: bool
) -> None:
    try:
        data = tar_of(content, format)
    except ValueError:  # a name that does not fit a ustar header
        format = tarfile.PAX_FORMAT
        data = tar_of(content, format)
    if content and not mark:
        last = as_tarfile_lists(data)[-1]
        data = data[: last.offset + (last.length + 511) // 512 * 512]
    path = write(tmp_path_factory.getbasetemp() / "any.tar", data)
    found = list(tar_members(path))
    assert found == as_tarfile_lists(data)
    assert {member.name: data[member.offset : member.offset + member.length] for member in found} == content


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("length", [99, 100, 101, 155, 200, 255, 256, 3000])
def test_names_around_the_ends_of_their_fields(tmp_path: Path, format: int, length: int) -> None:
    name = "/".join(itertools.repeat("d" * 49, 80))[: length - 2].rstrip("/") + "/x"
    try:
        data = tar_of({name: b"data", "next": b"more"}, format)
    except ValueError:
        assert format == tarfile.USTAR_FORMAT
        assert length > 200
        return
    assert list(tar_members(write(tmp_path / "a.tar", data))) == as_tarfile_lists(data)
    assert as_tarfile_lists(data)[0].name == name


def test_a_name_that_is_no_utf8_keeps_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    data = tar_of({name: b"x"})
    assert [member.name for member in tar_members(write(tmp_path / "a.tar", data))] == [name]


def test_directories_and_dots_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (".", "./n01", "n01/deep"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        add(tar, "./n01//./a.jpg", b"abc")
    (member,) = tar_members(write(tmp_path / "a.tar", buffer.getvalue()))
    assert member.name == "n01/a.jpg"
    assert buffer.getvalue()[member.offset :][: member.length] == b"abc"


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_tar_within_a_tar_has_offsets_in_the_outer_one(tmp_path: Path, format: int) -> None:
    inner = {f"n0{i}.tar": tar_of({**SMALL, f"{i}.jpg": b"%d" % i}, format) for i in range(3)}
    data = tar_of(inner, format)
    path = write(tmp_path / "outer.tar", data)
    outer = list(tar_members(path))
    assert [member.name for member in outer] == list(inner)
    for index, tar in enumerate(outer):
        found = {member.name: data[member.offset :][: member.length] for member in tar_members(path, tar)}
        assert found == {**SMALL, f"{index}.jpg": b"%d" % index}


def header(name: bytes = b"one.jpg", size: bytes | None = None, kind: bytes = b"0", magic: bytes = b"") -> bytes:
    """A header by hand, for what tarfile does not write."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"%011o\0" % 0 if size is None else size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    return signed(block)


def signed(block: bytearray | bytes) -> bytes:
    """The header with its right checksum."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.mark.parametrize(
    "size",
    [b"\x80" + (700).to_bytes(11, "big"), b"%11o " % 700, b"%o" % 700 + bytes(8), b"%012o" % 700],
    ids=["base256", "spaces", "short", "full"],
)
def test_sizes_as_different_tars_write_them(tmp_path: Path, size: bytes) -> None:
    data = header(size=size) + bytes(1024) + header(b"next.jpg") + END
    path = write(tmp_path / "a.tar", data)
    assert list(tar_members(path)) == as_tarfile_lists(data) == [("one.jpg", 512, 700), ("next.jpg", 2048, 0)]


def test_a_member_of_nine_gigabytes(tmp_path: Path) -> None:
    path, length = tmp_path / "large.tar", 9 << 30
    info = tarfile.TarInfo("large")
    info.size = length
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        head = info.tobuf(format)
        with path.open("wb") as file:  # a sparse file: nine gigabytes of hole
            file.write(head)
            file.seek(len(head) + length)
            file.write(header(b"next.jpg") + END)
        assert list(tar_members(path)) == [("large", len(head), length), ("next.jpg", len(head) + length + 512, 0)]


def test_signed_checksums_of_old_tars(tmp_path: Path) -> None:
    block = bytearray(header("é.jpg".encode()))
    total = 256 + sum(byte - 256 * (byte > 127) for byte in block[:148] + block[156:])
    block[148:156] = b"%06o\0 " % total
    data = bytes(block) + END
    assert list(tar_members(write(tmp_path / "a.tar", data))) == as_tarfile_lists(data)


def with_type(kind: bytes) -> Callable[[], bytes]:
    def data() -> bytes:
        info = tarfile.TarInfo("odd.jpg")
        info.type, info.linkname = kind, "one.jpg"
        return tar_of(SMALL)[:2560] + info.tobuf(tarfile.GNU_FORMAT) + END

    return data


def flipped() -> bytes:
    data = bytearray(tar_of(SMALL))
    data[1536 + 3] ^= 1  # in the name of the second member
    return bytes(data)


def twice() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "a.jpg", b"1")
        add(tar, "./a.jpg", b"2")
    return buffer.getvalue()


def pax(record: bytes, kind: bytes = b"x") -> bytes:
    """An extended header with one record, which begins with its own length."""
    record = next(line for size in range(len(record) + 9) if len(line := b"%d %s\n" % (size, record)) == size)
    return header(b"pax", b"%011o\0" % len(record), kind) + record.ljust(512, b"\0")


LONG = header(b"long", b"%011o\0" % 8, b"L") + b"name.jpg".ljust(512, b"\0")
FAULTS: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "hard link": (with_type(tarfile.LNKTYPE), r"'odd\.jpg' is a hard link"),
    "symbolic link": (with_type(tarfile.SYMTYPE), r"'odd\.jpg' is a symbolic link"),
    "pipe": (with_type(tarfile.FIFOTYPE), r"'odd\.jpg' is a named pipe"),
    "device": (with_type(tarfile.BLKTYPE), r"'odd\.jpg' is a block device"),
    "unknown": (with_type(b"V"), r"'odd\.jpg' is of the unknown type 'V'"),
    "old sparse": (with_type(b"S"), r"'odd\.jpg' is a sparse file"),
    "absolute": (lambda: tar_of({"/etc/a.jpg": b""}), r"'/etc/a\.jpg' has an absolute name"),
    "outside": (lambda: tar_of({"a/../../b.jpg": b""}), r"'a/\.\./\.\./b\.jpg' leads out"),
    "outside, long": (lambda: tar_of({"../" + "d" * 200: b""}), "leads out"),
    "outside, pax": (lambda: pax(b"path=../b.jpg") + header() + END, r"'\.\./b\.jpg' leads out"),
    "no name": (lambda: header(b"./") + END, "name of a folder"),
    "only a dot": (lambda: header(b".") + END, "has no name"),
    "twice": (twice, r"'a\.jpg' occurs twice"),
    "checksum": (flipped, r"wrong checksum at byte 1,536, after member 'one\.jpg'"),
    "no tar": (lambda: b"\xff\xd8\xff" * 1000, "is no tar"),
    "compressed": (lambda: b"\x1f\x8b" + bytes(range(256)) * 4, "decompress it first"),
    "empty": (lambda: b"", "is empty"),
    "cut in the data": (lambda: tar_of(SMALL)[: 1536 + 512 + 100], r"'two\.jpg' needs 2,560 bytes"),
    "cut in the padding": (lambda: tar_of(SMALL)[: 512 + 1000], r"'one\.jpg' needs 1,536 bytes"),
    "cut in a header": (lambda: tar_of(SMALL)[: 1536 + 200], "cut at byte 1,736, within a header"),
    "cut after a long name": (lambda: LONG, "ends after the extended header"),
    "mark after a long name": (lambda: LONG + END, "ends after the extended header"),
    "joined": (lambda: tar_of(SMALL) + tar_of({"lost.jpg": b""}), "data after its end mark at byte 3,072"),
    "size of letters": (lambda: header(size=b"abc\0") + END, "no number"),
    "size of a nine": (lambda: header(size=b"00000000091\0") + END, "no number"),
    "negative size": (lambda: header(size=b"\xff" * 12) + END, "no number"),
    "negative pax size": (lambda: pax(b"size=-5") + header() + END, "size of -5"),
    "torn pax": (lambda: pax(b"path=x").replace(b"path=x\n", b"path=xy") + header() + END, "torn pax"),
    "sparse pax": (lambda: pax(b"GNU.sparse.major=1") + header() + END, "is a sparse file"),
    "global name": (lambda: pax(b"path=x", b"g") + header() + END, "all members"),
    "two names": (lambda: LONG + pax(b"path=x") + header() + END, "two long names"),
    "large extension": (lambda: header(b"l", b"%011o\0" % (2 << 20), b"L") + bytes(4 << 20), "2,097,152 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
def test_a_faulty_tar_is_refused(tmp_path: Path, fault: str, nested: bool) -> None:
    data, message = FAULTS[fault][0](), FAULTS[fault][1]
    path = write(tmp_path / "a.tar", tar_of({"n01.tar": data}) if nested else data)
    within = next(iter(tar_members(path))) if nested else None
    with pytest.raises(InputError, match=message) as caught:
        list(tar_members(path, within))
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}:n01.tar" if nested else str(path))
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_global_records_without_names_are_passed_over(tmp_path: Path) -> None:
    data = pax(b"comment=of git archive", b"g") + header() + END  # as git archive writes them
    assert list(tar_members(write(tmp_path / "a.tar", data))) == as_tarfile_lists(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.tar cannot be read \(No such file"):
        list(tar_members(tmp_path / "nowhere.tar"))


def test_the_payload_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", tar_of({f"{i}.jpg": b"x" * 9000 for i in range(20)}))
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append(size) or pread(fd, size, offset))
    assert len(list(tar_members(path))) == 20
    assert sum(read[:-1]) == 21 * 512, "a block a member and the end mark; then the padding alone"
    assert read[-1] <= 10240
