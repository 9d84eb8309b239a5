"""The tables of the README and of docs/ that are made of rows, each between two marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from bench import rows as results
from bench.guide import guide_rows
from bench.ratios import table
from bench.reading import Row, read_rows
from loaders import InputError
from loaders.files import write_atomically
from twistnet.weights import REPOSITORY

DOCUMENTS = REPOSITORY
_README, _PRETRAIN = "README.md", "docs/pretrain.md"
TABLES: Mapping[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "ratios": (_README, table),
    "plan": (_PRETRAIN, guide_rows),
}


def readme() -> None:
    """Writes the tables anew between <!-- bench: NAME --> and <!-- bench: end -->, from the rows of bench/results.

    Raises:
        InputError: where TWISTNET_BENCH_RESULTS stands for other rows, or a table would lose lines; nothing is written.
    """
    if results.RESULTS != results.COMMITTED:
        raise InputError(
            f"the tables are of the rows in {results.COMMITTED}, and TWISTNET_BENCH_RESULTS names "
            f"{results.RESULTS}: unset it."
        )
    rows = read_rows()
    texts: dict[str, str] = {}
    for name, (file, lines_of) in TABLES.items():
        text = texts.get(file) or (DOCUMENTS / file).read_text()
        texts[file] = replaced(text, name, lines_of(rows))
    for file, text in texts.items():
        write_atomically(DOCUMENTS / file, lambda opened, text=text: opened.write(text.encode()))  # type: ignore[misc]
    print(f"Tables written: {', '.join(f'{name} into {file}' for name, (file, _) in TABLES.items())}.")


def replaced(text: str, name: str, lines: Sequence[str]) -> str:
    """The text with one table written anew.

    Raises:
        InputError: where the text has no marks for it, or has more lines there than there are rows for.
    """
    begin, end = f"<!-- bench: {name} -->", "<!-- bench: end -->"
    marked = re.compile(f"{re.escape(begin)}\n(.*?){re.escape(end)}", re.DOTALL)
    found = marked.search(text)
    if not found:
        raise InputError(f"the text has no table {name}: put {begin} and {end} where it is to stand.")
    there = len(found[1].splitlines())
    if len(lines) < there:
        raise InputError(
            f"the rows make {len(lines)} lines of the table {name}, which has {there}: bring back the rows "
            "that are missing, or take its other lines out by hand first."
        )
    return marked.sub(lambda _: "\n".join([begin, *lines, end]), text)
