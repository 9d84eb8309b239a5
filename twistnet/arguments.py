"""A command's arguments, checked whole before it starts and converted by annotation.

fire guesses a type from how a value looks (`007` is 7, `1-10` is text, `--amp=false` is true) and calls the function
before it finds what it cannot place. Here the signature decides, and what is wrong raises UsageError with nothing run.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
# What starts with a hyphen and is a value all the same: -1, -.5, -1e-3, -1,2 and -inf (refused later, as a value).
_NEGATIVE = re.compile(r"-(\.?[0-9]|inf\b|nan\b)", re.IGNORECASE)
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_MAX_RANGE = 100_000  # more than any list of folds, seeds or sizes; a slip of a key must not fill the memory


class Url(str):
    """A URL, as s3://bucket/set, where a parameter takes one beside paths."""


class UsageError(ValueError):
    """Arguments that a command cannot take. The message says which and what to write; it has no final full stop."""


class UnknownFlag(UsageError):
    """A flag that a command does not have.

    Attributes:
        name: of the flag, with underscores.
        value: what follows its `=`; None without one.
    """

    def __init__(self, message: str, name: str, value: str | None) -> None:
        super().__init__(message)
        self.name, self.value = name, value


class _Refused(ValueError):
    """A text that is no value of an annotation; the message goes on a sentence that begins with the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a command.

    Attributes:
        name: as in the signature.
        annotation: its type, evaluated.
        kind: `word` by position or by flag, `flag` by flag only, `rest` what follows `--`.
        default: inspect.Parameter.empty where it is required.
    """

    name: str
    annotation: Any
    kind: Literal["word", "flag", "rest"]
    default: Any

    @property
    def required(self) -> bool:
        """Whether the command cannot do without."""
        return self.kind != "rest" and self.default is inspect.Parameter.empty

    @property
    def is_switch(self) -> bool:
        """Whether the bare flag means true, and --no_<name> false."""
        return bool in _alternatives(self.annotation)

    @property
    def is_list(self) -> bool:
        """Whether it takes several values, with commas."""
        return any(typing.get_origin(item) in (tuple, list) for item in _alternatives(self.annotation))

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.name.upper() if self.kind == "word" and self.required else f"--{self.name}"


_KINDS: dict[Any, Literal["word", "flag", "rest"]] = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "word",
    inspect.Parameter.KEYWORD_ONLY: "flag",
    inspect.Parameter.VAR_POSITIONAL: "rest",
}


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters of a command, in the order of its signature.

    Raises:
        TypeError: the function cannot be a command: an annotation is missing or not among those of `convert`.
    """
    hints = typing.get_type_hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in _KINDS or name not in hints:
            raise TypeError(f"{function.__name__}: {parameter} needs an annotation and a plain kind")
        metavar(hints[name])
        kind, default = _KINDS[parameter.kind], parameter.default
        found[name] = Parameter(name=name, annotation=hints[name], kind=kind, default=default)
    return found


def parse(function: Callable[..., Any], argv: Sequence[str]) -> dict[str, Any]:
    """Checks and converts all arguments; runs nothing.

    A flag is written --name VALUE or --name=VALUE, with hyphens or underscores; a switch --name, --no_name or with a
    boolean word (true, yes, on, 1; false, no, off, 0). What follows `--` goes to the parameter `*rest`, or without
    one counts as given by position. A last word of `tuple[T, ...]` takes all words that are left, each as it stands.

    Args:
        function: the command.
        argv: what follows its name on the command line.

    Returns:
        The values given, by name of parameter. What was not given is absent, so that the signature's default applies.

    Raises:
        UsageError: a flag is unknown, repeated or without its value, a value is not of its type, a word has no place,
            or a required parameter is missing.
    """
    parameters = parameters_of(function)
    last = next((parameter for parameter in parameters.values() if parameter.kind == "rest"), None)
    places = deque(parameter for parameter in parameters.values() if parameter.kind == "word")
    values: dict[str, Any] = {}
    words: list[tuple[str, Parameter | None]] = []  # with the flag that stands before it, to say what went wrong
    rest: list[str] = []
    before: Parameter | None = None
    tokens = deque(argv)
    while tokens:
        if (token := tokens.popleft()) == "--":
            rest = list(tokens)
            break
        if not _is_flag(token):
            words.append((token, before))
            if last and len(words) > len(places):  # without its `--` the flags after it would be called unknown
                raise UsageError(_stray(token, before, last))
            continue
        before, negated, text = _resolve(token, parameters)
        value: Any = not negated
        if text is None and not negated and tokens and _is_value(tokens[0], before):
            text = tokens.popleft()
        if text is not None:
            value = _converted(f"--{before.name}", text, before.annotation)
        elif not before.is_switch:
            raise UsageError(_without_value(before, tokens))
        _put(values, before, value)

    if last:
        values[last.name] = tuple(_converted(last.name.upper(), text, last.annotation) for text in rest)
    else:
        words += [(text, None) for text in rest]
    if places and places[-1].is_list and len(words) >= len(places):
        several, words = words[len(places) - 1 :], words[: len(places) - 1]
        element, label = typing.get_args(places[-1].annotation)[0], places[-1].label
        _put(values, places.pop(), tuple(_converted(label, word, element) for word, _ in several))
    for word, flag in words:
        if not places:
            raise UsageError(_stray(word, flag, last))
        place = places.popleft()
        _put(values, place, _converted(place.label, word, place.annotation))
    missing = [item.label for item in parameters.values() if item.required and item.name not in values]
    if missing:
        raise UsageError(f"missing {_listed(missing, 'and')}")
    return values


def bind(function: Callable[..., Any], values: Mapping[str, Any]) -> Callable[[], Any]:
    """The call that `parse` checked, with the defaults filled in.

    Args:
        function: the command.
        values: what `parse` returned for it.
    """
    bound = inspect.BoundArguments(inspect.signature(function), dict(values))
    bound.apply_defaults()
    return lambda: function(*bound.args, **bound.kwargs)


def metavar(annotation: Any) -> str:
    """What help writes for a value of the annotation.

    Raises:
        TypeError: no argument can have this annotation.
    """
    names: dict[Any, str] = {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", Url: "URL"}
    if annotation in names:
        return names[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return "|".join(metavar(option) for option in arguments if option is not type(None))
    if (origin is tuple and arguments[1:] == (...,)) or origin is list:
        return f"{metavar(arguments[0])},..."
    raise TypeError(f"{annotation} is no annotation of a command's parameter")


def convert(text: str, annotation: Any) -> Any:
    """One value.

    Args:
        text: as given.
        annotation: bool, int, float, str, Path, Url, Literal, `tuple[T, ...]` or `list[T]` of these (with commas; whole
            numbers also as ranges, `1-3,7`), or a union, whose alternatives are tried in their order. None of a union
            is written `none`, where no alternative before it takes that word.

    Raises:
        ValueError: the text is no such value; the message goes on a sentence that begins with the text.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is str:
        return text
    if annotation is bool:
        if text.lower() not in _BOOLEANS:
            raise _Refused("is not true or false")
        return _BOOLEANS[text.lower()]
    if annotation is int:
        return _integer(text)
    if annotation is float:
        return _real(text)
    if annotation is Path:
        return _path(text)
    if annotation is Url:
        if "://" not in text:
            raise _Refused("is no URL")
        return Url(text)
    if origin is Literal:
        by_name = {str(choice): choice for choice in arguments}
        if text not in by_name:
            raise _Refused(f"is not {_listed(by_name, 'or')}{did_you_mean(text, by_name)}")
        return by_name[text]
    if origin in (tuple, list):
        return origin(_elements(text, arguments[0]))
    return _first_of(text, _alternatives(annotation))


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message that offers the nearest of the known names, or nothing where none is near."""
    spelt = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), spelt, n=1)
    near = near or [candidate for candidate in spelt if name and name.lower() in candidate][:1]
    return f": did you mean {prefix}{spelt[near[0]]}?" if near else ""


def shown(text: str) -> str:
    """Text of the user's within a message of one line."""
    return text if text and text.isprintable() else repr(text)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (Union, types.UnionType)
    # None last, so that a str | None or Path | None keeps the word `none`, which may be a name.
    return tuple(sorted(typing.get_args(annotation), key=lambda item: item is type(None))) if union else (annotation,)


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) and len(text) < 40:
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    hint = f": write {int(number)}" if number.is_integer() and abs(number) < 2**53 else ""
    raise _Refused(f"is not a whole number{hint}")


def _real(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _Refused("is not a number") from None
    if not math.isfinite(number):
        raise _Refused("is not a finite number")
    return number


def _path(text: str) -> Path:
    # Path("") is the working directory, which nobody means who writes --data_dir=$UNSET.
    if not text:
        raise _Refused("is empty: name a file or folder")
    try:
        return Path(text).expanduser()  # the shell expands ~ in --flag ~/x but not in --flag=~/x
    except RuntimeError:
        raise _Refused("begins with a home folder that is not known") from None


def _elements(text: str, annotation: Any) -> list[Any]:
    found: list[Any] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            raise _Refused("has an empty element: write a list with commas and without spaces")
        ends = _RANGE.fullmatch(part) if annotation is int else None
        if ends:
            first, last = (_integer(end) for end in ends.groups())
            if first > last:
                raise _Refused(f"runs from {first} down to {last}: write {last}-{first}")
            if last - first >= _MAX_RANGE:
                raise _Refused(f"has more than {_MAX_RANGE:,} elements")
            found.extend(range(first, last + 1))
            continue
        try:
            found.append(convert(part, annotation))
        except _Refused as error:
            raise error if part == text else _Refused(f"has the element {part!r}, which {error}") from None
    return found


def _first_of(text: str, alternatives: Sequence[Any]) -> Any:
    refusals: list[str] = []
    for alternative in alternatives:
        if alternative is type(None):
            if text.lower() == "none":
                return None
            continue
        try:
            return convert(text, alternative)
        except _Refused as error:
            refusals.append(str(error))
    raise _Refused(" and ".join(refusals))


def _converted(label: str, text: str, annotation: Any) -> Any:
    try:
        return convert(text, annotation)
    except _Refused as error:
        raise UsageError(f"{label} {text!r} {error}") from None


def _is_flag(token: str) -> bool:
    return token.startswith("-") and token != "-" and not _NEGATIVE.match(token)


def _is_value(token: str, parameter: Parameter) -> bool:
    """Whether the token after a flag is its value; after a switch only what is one of its values."""
    if _is_flag(token):
        return False
    if not parameter.is_switch:
        return True
    try:
        convert(token, parameter.annotation)
    except _Refused:
        return False
    return True


def _resolve(token: str, parameters: Mapping[str, Parameter]) -> tuple[Parameter, bool, str | None]:
    """The parameter that a flag names, whether it is --no_<name>, and the text after `=`."""
    flag, equals, text = token.partition("=")
    flags = {name: item for name, item in parameters.items() if item.kind != "rest"}
    negations = {f"no_{name}": item for name, item in flags.items() if item.is_switch}
    name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
    if name in flags:
        return flags[name], False, text if equals else None
    if name in negations:
        if equals:
            raise UsageError(f"{flag} takes no value: write {flag} or --{negations[name].name}={shown(text)}")
        return negations[name], True, None
    near = did_you_mean(flag.lstrip("-").replace("-", "_"), [*flags, *negations, "help"], prefix="--")
    raise UnknownFlag(f"unknown flag {shown(flag)}{near}", name, text if equals else None)


def _put(values: dict[str, Any], parameter: Parameter, value: Any) -> None:
    if parameter.name in values:
        raise UsageError(f"{parameter.label} is given twice: leave one")
    values[parameter.name] = value


def _without_value(parameter: Parameter, tokens: Sequence[str]) -> str:
    wanted = f"--{parameter.name} needs a value, {metavar(parameter.annotation)}"
    if tokens and not tokens[0].startswith("--"):
        return f"{wanted}: one that begins with a hyphen is written --{parameter.name}={shown(tokens[0])}"
    return wanted


def _stray(word: str, before: Parameter | None, rest: Parameter | None) -> str:
    if before and before.is_switch:
        return f"--{before.name} is true or false, not {word!r}"
    if before and before.is_list:
        return f"{word!r} stands alone: --{before.name} takes a list with commas and without spaces, such as 1,2,3"
    if rest:
        return f"{word!r} has no place here: what goes to {rest.name.upper()} follows --, so write -- {shown(word)}"
    return f"{word!r} belongs to no flag: write --flag {shown(word)}"


def _listed(names: Iterable[str], conjunction: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {conjunction} {last}" if most else last
