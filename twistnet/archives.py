"""Files of torch, looked over before torch unpacks them: a small one can claim a huge one."""

from __future__ import annotations

import zipfile
from pathlib import Path

_ZIP = b"PK\x03\x04"  # that torch too knows its archives by


def is_archive(path: Path) -> bool:
    """Whether torch would read a file as a zip archive, and not as what its versions before 1.6 wrote."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def refuse_swollen(path: Path, archive: zipfile.ZipFile) -> None:
    """Raises ValueError where an archive's entries unpack to more than the file holds.

    torch stores them as they are, and unpacks whatever else it meets into memory. Entries that share their bytes add
    up to more than the file too.

    Args:
        path: of the archive.
        archive: opened.
    """
    left = path.stat().st_size
    for entry in archive.infolist():
        left -= entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or left < 0:
            raise ValueError(f"{entry.filename} unpacks to {entry.file_size:,} bytes, more than the file holds")
