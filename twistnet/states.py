"""What a checkpoint's values have to be: files may be somebody else's, or of another version."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from loaders import InputError
from loaders.errors import one_line

_NUMBER, _NONE = (int, float), type(None)
_KINDS: Mapping[str, tuple[type, ...]] = {
    **{"model": (dict,), "ema": (dict, _NONE), "buffers": (Tensor,), "optimiser": (dict,), "scaler": (dict,)},
    **{"dtype": (str,), "epoch": (int,), "step_in_epoch": (int,), "best_top1": _NUMBER, "best_epoch": (int,)},
    **{"meter": (dict,), "recipe": (dict,), "data": (dict,), "weights_from": (dict, _NONE)},
    **dict.fromkeys(("publish_to", "store", "decoder"), (str, _NONE)),
}
_KINDS_WITHIN: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "optimiser": {"state": (dict,), "param_groups": (list,)},
    "meter": {"epoch_sums": (list,), **dict.fromkeys(("images", "seconds", "run_s"), _NUMBER)},
    "data": {
        **dict.fromkeys(("train_split", "val_split", "fingerprint", "val_fingerprint"), (str,)),
        **{"classes": (list,), "samples": (int,), "total_batch": (int,)},
    },
}


def wrong_kind(state: Mapping[str, Any]) -> str:
    """The first value of a checkpoint that is none a run writes, and what one is; empty where all are right."""
    found = [_wrong(state, _KINDS)]
    found += [_wrong(state[key], kinds, f"{key}'s ") for key, kinds in _KINDS_WITHIN.items() if not found[0]]
    return next(filter(None, found), "")


def _wrong(found: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], of: str = "") -> str:
    for name, kind in kinds.items():
        value = found.get(name)
        if isinstance(value, bool) or not isinstance(value, kind):
            return (
                f"{of}{name} as {type(value).__name__} where a run writes {' or '.join(each.__name__ for each in kind)}"
            )
        least = 1 if name == "total_batch" else 0
        if type(value) is int and value < least:
            return f"{of}{name} {value} where a run writes at least {least}"
    return ""


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Says in a sentence that a state, whose kinds are right, is not one of this model and optimiser.

    Raises:
        InputError: where the block raises anything else.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # torch raises errors of many kinds, whatever a file holds
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
        raise InputError(
            f"checkpoint {path} does not fit the model that its recipe names ({reason}): take an older one, or start "
            "a new run."
        ) from error
