"""What docs/nothing-lost.md quotes is what the code says: each sentence is one of its templates, values filled in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import PAGES, ROOT

LEAST_WORDS = 5  # fewer are names and flags
LEAST_LETTERS = 10  # of a template that are not values: less would be found in anything
COVERED = 0.75  # of a quote, by all templates that it is put together from

PAGE = PAGES["docs/nothing-lost.md"]
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
QUOTES = [quote for row in ROWS for quote in re.findall(r"`([^`]+)`", row) if len(quote.split()) >= LEAST_WORDS]


def templates(path: Path) -> Iterator[re.Pattern[str]]:
    """The strings of a module but its docstrings, with anything in the place of their values."""
    tree = ast.parse(path.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if id(node) in documents or not all(isinstance(part, (ast.Constant, ast.FormattedValue)) for part in parts):
            continue
        texts = [str(part.value).removesuffix("\n") if isinstance(part, ast.Constant) else None for part in parts]
        texts = [text for text in texts if text != ""]
        if len(re.sub(r"[^A-Za-z]", "", "".join(text for text in texts if text))) >= LEAST_LETTERS:
            whole = "".join(".*?" if text is None else re.escape(text) for text in texts)
            yield re.compile(whole.removesuffix(r"\.").removesuffix(".*?") + (".*" if texts[-1] is None else ""))


TEMPLATES = [
    template
    for package in ("loaders", "twistnet", "launch")
    for path in sorted((ROOT / package).rglob("*.py"))
    for template in templates(path)
]


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_sentence_is_the_codes(quote: str) -> None:
    covered: set[int] = set()  # a message may be put together from several templates
    for template in TEMPLATES:
        if found := template.search(quote):
            covered.update(range(*found.span()))
    assert len(covered) >= COVERED * len(quote), f"no message of the code reads {quote!r}"


@pytest.mark.parametrize(
    "quote", ["the run ended because of a bad sample: look for it.", "latest.pt was not written at all"]
)
def test_a_sentence_that_nobody_says_is_found_out(quote: str) -> None:
    assert not any(template.fullmatch(quote) for template in TEMPLATES)


@pytest.mark.parametrize(
    "fault",
    [
        *("a sample that cannot be", "within `--max_bad`", "one more than `--max_bad`", "while it is read"),
        *("gone, at the start", "while shards are staged", "cannot be staged", "thread of the staging dies"),
        *("thread of the loader dies", "the clock is set", "`/dev/shm` of 64 MB", "disk full at a checkpoint"),
        *("torn or damaged", "no progress for", "not finite", "another number of ranks", "SIGTERM"),
    ],
)
def test_every_fault_has_a_row(fault: str) -> None:
    assert sum(fault in row.split("|")[1] for row in ROWS) == 1
