"""The README and the pages of docs/, for the tests that hold them to what they are about."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
TEXT = "\n".join(PAGES.values())
