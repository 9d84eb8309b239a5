"""Flags that a command has from another one, by the one definition of them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_ARGS = "Args:\n"


def with_flags_of(
    source: Callable[..., Any], *, but: Collection[str]
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Gives a command the flags of another one, with their types, defaults and lines of help.

    The command takes them in a last parameter `**shared`, whose own flags come before them. Its docstring ends with the
    section of its arguments.

    Args:
        source: the other command.
        but: the flags that it does not take.
    """
    hints = typing.get_type_hints(source)
    taken = {name: item for name, item in inspect.signature(source).parameters.items() if name not in but}
    told = "".join(text for name, text in _entries(inspect.getdoc(source) or "") if name in taken)

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        signature, own = inspect.signature(function), typing.get_type_hints(function)
        parameters = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*parameters, *taken.values()])  # type: ignore[attr-defined]
        function.__annotations__ = {
            **{name: hint for name, hint in own.items() if name in signature.parameters},
            **{name: hints[name] for name in taken},
            "return": own["return"],
        }
        function.__doc__ = f"{inspect.getdoc(function)}\n{told.rstrip()}"
        return function

    return decorate


def _entries(docstring: str) -> list[tuple[str, str]]:
    """The arguments that a docstring describes, each with its lines as they stand there."""
    _, _, section = docstring.partition(_ARGS)
    found = re.finditer(r"^    (\w+): .*\n?(?:     .*\n?)*", section, re.MULTILINE)
    return [(entry[1], entry[0]) for entry in found]
