"""README and pages say what the command line does: every command, every flag, and no other; their links lead on."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import loaders
import loaders.augment
import twistnet
from bench.commands import COMMANDS as BENCH_COMMANDS
from tests.documents import PAGES, ROOT, TEXT
from twistnet.arguments import parameters_of, parse
from twistnet.commands import COMMANDS

PROGRAMS = {"twistnet": COMMANDS, "python -m bench": BENCH_COMMANDS}


def function_of(name: str, program: str = "twistnet") -> object:
    module, _, attribute = PROGRAMS[program][name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert set(re.findall(r"^\| `twistnet ([\w ]+)`", TEXT, re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"^\| `python -m bench (\w+)`", TEXT, re.MULTILINE)) == set(BENCH_COMMANDS)


def flag_rows(name: str) -> list[tuple[list[str], str]]:
    """Of a command's table of flags: the flags of each row, and its cell of defaults."""
    if name == "convert":
        found = re.findall(r"^\| (`--[^|]*?) \| [^|]* \| ([^|]*) \|$", TEXT, re.MULTILINE)
    else:
        rows = re.findall(r"^\| (`--[^|]*?) \| (\w+) \| [^|]* \| ([^|]*) \|$", TEXT, re.MULTILINE)
        found = [(flags, defaults) for flags, command, defaults in rows if command in ("both", name)]
    return [([flag.removeprefix("no_") for flag in re.findall(r"--(\w+)", flags)], cell) for flags, cell in found]


TABLES = ["pretrain", "finetune", "convert"]


@pytest.mark.parametrize("name", TABLES)
def test_the_flag_table_is_the_commands(name: str) -> None:
    documented = [flag for flags, _ in flag_rows(name) for flag in flags]
    assert sorted(documented) == sorted(parameters_of(function_of(name)))


@pytest.mark.parametrize("name", TABLES)
def test_the_flag_table_gives_the_defaults(name: str) -> None:
    parameters, checked = parameters_of(function_of(name)), 0
    for flags, cell in flag_rows(name):
        shown = [part.strip(" `") for part in cell.split(",")]
        defaults = [parameters[flag].default for flag in flags if not parameters[flag].required]
        for place, default in enumerate(defaults):
            if isinstance(default, (str, int, float, Path)) and not isinstance(default, bool):
                assert shown[place] == str(default).removesuffix(".0" if name != "convert" else ""), flags
                checked += 1
    assert checked >= 4


@pytest.mark.parametrize(
    ("program", "name"),
    [(program, name) for program, commands in PROGRAMS.items() for name in commands if name not in TABLES],
)
def test_the_rows_of_the_others_name_their_flags_and_defaults(program: str, name: str) -> None:
    (row,) = re.findall(rf"^\| `{program} {name}` \| (.*) \|$", TEXT, re.MULTILINE)
    shown = dict(re.findall(r"`--(\w+)(?: ([^`]+))?`", row))
    parameters = {key: item for key, item in parameters_of(function_of(name, program)).items() if item.kind != "rest"}
    if name == "sweep":  # the rest of its flags are finetune's, which have a table
        shared = parameters_of(function_of("finetune"))
        parameters = {key: item for key, item in parameters.items() if item != shared.get(key)}
    assert set(shown) == set(parameters)
    for flag, default in shown.items():
        expected = parameters[flag].default
        plain = parameters[flag].required or expected is None or expected is False or expected == ()
        as_given = ",".join(map(str, expected)) if isinstance(expected, tuple) else str(expected)
        as_given = as_given.lower() if isinstance(expected, bool) else as_given
        assert default == ("" if plain else as_given)


def command_lines() -> list[str]:
    lines = [line.partition(" #")[0] for line in TEXT.replace("\\\n", " ").splitlines()]
    return [line.split("-m ")[-1] for line in lines if re.match(r"(torchrun.* -m )?twistnet \w+(?: \w+)?\s+--", line)]


@pytest.mark.parametrize("line", command_lines())
def test_the_commands_shown_are_accepted(line: str) -> None:
    _, *words = line.split()
    program = "python -m bench" if words[0] == "bench" else "twistnet"
    words = words[1:] if words[0] == "bench" else words
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert parse(function_of(name, program), words[len(name.split()) :])


def test_there_are_commands_to_check() -> None:
    assert len(command_lines()) >= 4


def test_the_python_example_names_what_exists() -> None:
    example = re.search(r"```python\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert example
    for name in re.findall(r"batch\.(\w+)", example[1]):
        assert name in loaders.Batch._fields
    imported = re.search(r"from loaders.augment import (.*)", example[1])
    assert imported
    assert all(hasattr(loaders.augment, name.strip()) for name in imported[1].split(","))
    assert callable(twistnet.weights.load)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", TEXT, re.MULTILINE)) <= targets


def test_the_changelog_has_this_version() -> None:
    assert f"## {twistnet.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def anchors(page: str) -> set[str]:
    """What a page's headings are called in links, as GitHub makes them: lower case, without punctuation, hyphenated."""
    headings = re.findall(r"^#+ (.*)$", PAGES[page], re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[str, str]]:
    found = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [(page, link) for page, link in found if "://" not in link]


@pytest.mark.parametrize(("page", "link"), links())
def test_links_lead_to_a_file_and_a_heading(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.relative_to(ROOT).as_posix())


def test_every_page_is_listed_in_the_readme() -> None:
    listed = {link.partition("#")[0] for page, link in links() if page == "README.md"}
    assert {page for page in PAGES if page != "README.md"} <= listed
