"""The errors that a user can cause; the command line prints their message and exits with 1, without a traceback."""

from __future__ import annotations


def one_line(message: object, limit: int | None = None) -> str:
    """A message of another package's within a sentence of ours: its first `limit` characters, on one line."""
    return " ".join(f"{message}".split())[:limit]


class InputError(ValueError):
    """A value, file or folder that cannot be used. The message is one sentence: bad value, limit, next step."""


class SampleError(InputError):
    """One sample cannot be read or decoded.

    Attributes:
        key: what names the sample to a person: the path of its file, or shard and member.
        reason: what is wrong with it.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"{key} cannot be decoded ({reason}): mend or remove it, in a converted set by converting again, or allow "
            "some by max_bad (--max_bad)."
        )
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return (SampleError, (self.key, self.reason))
