"""The command line: fire's one function a command, with everything checked before the function is called.

fire reads the docstrings and makes the call. It is handed a call without arguments, so it finds no type to guess, no
words left over to apply to the result, and nothing to show in a pager; `arguments` says why that is not left to it.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import inspect
import io
import os
import re
import select
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire
import fire.docstrings

from launch.ranks import Ranks
from launch.version import VERSION
from loaders.errors import InputError, one_line
from twistnet.arguments import (
    Parameter,
    UnknownFlag,
    UsageError,
    bind,
    did_you_mean,
    metavar,
    parameters_of,
    parse,
    shown,
)
from twistnet.commands import COMMANDS, Command

WIDTH = 100  # fixed, so that help is the same text in a terminal, a log and the README
_INDENT = 26
# torchrun ends all ranks as soon as one fails: the silent ones let rank 0, which may start later, say why first.
_RANK_0_FIRST_S = 10.0
ABOUT = "ImageNet as downloaded, and TwistNet-18 or any timm model trained from it."
_BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE ended


def run(
    argv: Sequence[str], commands: Mapping[str, Command] = COMMANDS, program: str = "twistnet", about: str = ABOUT
) -> int:
    """Runs one command line.

    Args:
        argv: what follows the program's name.
        commands: by name.
        program: how messages and help call it.
        about: what the help of all commands says of them; a sentence.

    Returns:
        The exit code: 0, the command's own, 1 for an error that it reports in a sentence, 2 for arguments that it
        cannot take, 130 when interrupted. Another exception is a defect and passes through.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what its encoding cannot say
            stream.reconfigure(errors="backslashreplace")
    try:
        ranks = Ranks.from_env()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # A name may be two words; the longer one counts.
    name = next((name for name in (" ".join(argv[:2]), *argv[:1]) if name in commands), "")
    called = f"{program} {name}" if name else program
    try:
        if name:
            code = _run_command(called, commands[name], argv[len(name.split()) :], ranks)
        else:
            code = _run_without(argv, commands, program, about, ranks)
        if sys.stdout is not None:  # it was closed before the start otherwise
            sys.stdout.flush()  # here, where a closed pipe can still be handled
        return code
    except UsageError as error:
        if ranks.is_main:
            stop = "" if str(error).endswith("?") else "."
            print(f"{called}: {error}{stop} See {called} --help.", file=sys.stderr)
        return _failed_alike(ranks)
    except KeyboardInterrupt as stopped:
        if ranks.is_main:
            where = f" {stopped}" if str(stopped) else ""
            print(f"{called}: interrupted{where}.", file=sys.stderr)
        return int(getattr(stopped, "code", 130))
    except (InputError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return _BROKEN_PIPE
        said = _without_an_extra(error) if isinstance(error, ModuleNotFoundError) else _sentence(error)
        if said is None:
            raise
        if os.environ.get("TWISTNET_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        mark = "" if ranks.is_main else f"[rank {ranks.rank}] "
        sys.stderr.write(f"{mark}error: {said}\n")  # in one piece: other ranks write there too
        return 1


def overview(commands: Mapping[str, Command] = COMMANDS, program: str = "twistnet", about: str = ABOUT) -> str:
    """The help of all commands; imports none of them."""
    width = max(len(name) for name in commands) + 4
    listed = [_entry(name, command.summary, width) for name, command in commands.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND [--flag VALUE ...]",
            "",
            about,
            "",
            "commands:",
            *listed,
            "",
            f"{program} COMMAND --help lists the flags of one.",
            *(
                ["twistnet bench measures what bounds a run here: twistnet bench --help."]
                if program == "twistnet"
                else []
            ),
        ]
    )


def help_text(program: str, function: Callable[..., Any]) -> str:
    """The help of one command, from its signature and docstring.

    Args:
        program: how it is called, `twistnet pretrain`.
        function: the command.

    Returns:
        Lines of at most WIDTH characters.
    """
    parameters = parameters_of(function)
    # fire takes a wrapped line with a colon in it for the next argument: each argument on one line prevents that.
    docstring = re.sub(r"\n {8,}(?=\S)", " ", inspect.getdoc(function) or "")
    parsed = fire.docstrings.parse(docstring)
    described = {item.name: " ".join((item.description or "").split()) for item in parsed.args or []}

    parts = [program]
    for item in parameters.values():
        if item.kind == "word":
            name = f"{item.name.upper()}{' ...' if item.is_list else ''}"
            parts.append(name if item.required else f"[{name}]")
        elif item.kind == "flag" and item.required:
            parts.append(f"--{item.name} {metavar(item.annotation)}")
    if any(item.kind == "flag" and not item.required for item in parameters.values()):
        parts.append("[--flag VALUE ...]")
    parts += [f"[-- {item.name.upper()} ...]" for item in parameters.values() if item.kind == "rest"]
    blocks = [textwrap.fill("usage: " + " ".join(parts), WIDTH, subsequent_indent="    ", break_on_hyphens=False)]
    blocks += [_wrapped(text) for text in (parsed.summary, parsed.description) if text]
    for title, kinds in (("arguments:", ("word", "rest")), ("flags:", ("flag",))):
        entries = [_flag_entry(item, described) for item in parameters.values() if item.kind in kinds]
        if entries:
            blocks.append("\n".join([title, *entries]))
    return "\n\n".join(blocks)


def _run_command(program: str, command: Command, argv: Sequence[str], ranks: Ranks) -> int:
    module, _, attribute = command.target.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and _without_an_extra(error):
            raise
        raise InputError(f"{program} cannot start ({error}): twistnet doctor says what is broken.") from error
    if _asks_for_help(argv):
        if ranks.is_main:
            print(help_text(program, function))
        return 0
    try:
        call = bind(function, parse(function, argv))
    except UnknownFlag as error:
        raise set_instead(error, function) from None
    codes: list[int] = []

    def checked() -> None:
        codes.append(call() or 0)

    fire.Fire(checked, command=[], name=program)
    return codes[0]


def set_instead(error: UnknownFlag, function: Callable[..., Any]) -> UsageError:
    """The error, which for a value of a recipe that has no flag of its own says how it is set."""
    if "set" not in parameters_of(function):
        return error
    from twistnet.recipe import Recipe  # which such a command has imported

    if error.name not in {field.name for field in dataclasses.fields(Recipe)}:
        return error
    value = "VALUE" if error.value is None else shown(error.value)
    return UsageError(f"--{error.name} is no flag but a value of the recipe: write --set {error.name}={value}")


def _run_without(argv: Sequence[str], commands: Mapping[str, Command], program: str, about: str, ranks: Ranks) -> int:
    """What to do where the first word is not a command."""
    if argv and not argv[0].startswith("-"):
        raise UsageError(f"unknown command {shown(argv[0])}{did_you_mean(argv[0], commands)}")
    if argv and not _asks_for_help(argv) and argv[0] != "--version":
        raise UsageError(f"{shown(argv[0])} stands before the command: write {program} COMMAND --flag VALUE")
    if ranks.is_main:
        text = f"twistnet {VERSION}" if argv and argv[0] == "--version" else overview(commands, program, about)
        print(text, file=sys.stdout if argv else sys.stderr)
    return 0 if argv else _failed_alike(ranks)


def _failed_alike(ranks: Ranks) -> int:
    """The exit code of arguments that no rank can take, of which rank 0 tells."""
    if not ranks.is_main:
        time.sleep(_RANK_0_FIRST_S)
    return 2


def _asks_for_help(argv: Sequence[str]) -> bool:
    own = argv[: argv.index("--")] if "--" in argv else argv
    return "--help" in own or "-h" in own


def _flag_entry(item: Parameter, described: Mapping[str, str]) -> str:
    if item.kind in ("word", "rest"):
        name = f"{item.name.upper()} {metavar(item.annotation)}"
    elif item.is_switch:
        name = f"--{item.name}, --no_{item.name}"
    else:
        name = f"--{item.name} {metavar(item.annotation)}"
    note = "(required)" if item.required else _default(item.default)
    return _entry(name, f"{described.get(item.name, '')} {note}".strip(), _INDENT)


def _default(value: Any) -> str:
    if value is None or value is inspect.Parameter.empty:
        return ""
    if isinstance(value, bool):
        return f"(default: {str(value).lower()})"
    text = ",".join(str(element) for element in value) if isinstance(value, (list, tuple)) else str(value)
    return f"(default: {text})" if text else ""


def _entry(name: str, text: str, indent: int) -> str:
    """A name and what it means, the text in a column of its own, under the name where that is too long."""
    first = f"  {name}"
    lines = textwrap.wrap(text, WIDTH - indent, break_on_hyphens=False)
    margin = " " * indent
    if lines and len(first) + 2 <= indent:
        first = first.ljust(indent) + lines.pop(0)
    head = textwrap.fill(first, WIDTH, subsequent_indent="    ", drop_whitespace=False) if len(first) > WIDTH else first
    return "\n".join([head, *(margin + line for line in lines)])


def _wrapped(text: str) -> str:
    """Paragraphs filled anew; one that is indented is an example and stays as it is."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith(" ") else textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in paragraphs
    )


def _sentence(error: InputError | OSError) -> str:
    """What went wrong, on one line."""
    if isinstance(error, InputError):
        return str(error)
    where = str(error.filename) if error.filename is not None else ""
    if isinstance(error, (FileExistsError, NotADirectoryError)) and where:
        return f"{where} cannot be a folder, a file stands there or above it: choose another path."
    if error.errno == errno.ENOSPC:
        return f"no space is left on the device{' for ' + where if where else ''}: free some or write elsewhere."
    if isinstance(error, FileNotFoundError) and where:
        return f"{where} does not exist: check the path."
    if isinstance(error, PermissionError) and where:
        return f"{where} may not be used by this user: change its permissions or choose another path."
    reason = one_line(error.strerror or str(error) or type(error).__name__)
    return f"{where}: {reason}" if where else reason


def _without_an_extra(error: ModuleNotFoundError) -> str | None:
    """What is said where a package of an extra is missing; None of any other module, which is a defect."""
    from twistnet.doctor import install_command  # as little as possible is imported before a command
    from twistnet.machine import OPTIONAL

    module = (error.name or "").partition(".")[0]
    known = next((each for each in OPTIONAL if each.module.partition(".")[0] == module), None)
    if known is None:
        return None
    return f"this needs {known.name}, which is not installed: {install_command(known.extra)}."


def _stdout_is_closed() -> bool:
    """Whether it is standard output that broke, and not a pipe of the command's own; if so, silences it for good."""
    try:
        number = sys.stdout.fileno()
        state = select.poll()
        state.register(number, 0)
        if not state.poll(0):
            return False
        # The interpreter flushes once more as it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    except OSError:
        return False
    return True
