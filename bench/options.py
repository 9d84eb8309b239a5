"""What the bench commands' options have in common."""

from __future__ import annotations

from loaders import InputError


def check_positive(**options: float | None) -> None:
    """Raises InputError for the first number that is 0 or less; None stands for a default."""
    for name, value in options.items():
        if value is not None and value <= 0:
            least = "at least 1" if isinstance(value, int) else "more than 0"
            raise InputError(f"--{name} {value} is too small: take {least}.")
