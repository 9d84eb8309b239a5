"""The forms of a set that a plan compares, from rows of `bench decode`, and the one that it advises."""

from __future__ import annotations

from collections.abc import Sequence

from bench.costs import Cost
from bench.here import cost_of
from bench.planning import Form, Load, Machine, Prediction
from bench.reading import Row, newest
from loaders import InputError

FLAGS = {  # by the set of bench/results/decode.csv: flags of `twistnet convert`
    "original": "--images original",
    "500_px": "--images max_side=500",
    "400_px": "--images max_side=400",
    "256_px": "--images max_side=256",
    "raw_256_px": "--formats beton --beton raw --images max_side=256",
}
LEAST_SIDES = {"500_px": 416, "400_px": 333, "256_px": 213, "raw_256_px": 213}  # of a photograph of 6 : 5
_SAME = 1.02  # a form that is faster by less is not worth the pixels that it lacks


def forms_of(rows: Sequence[Row], threads: int = 1) -> list[Form]:
    """The forms of a set that rows of decode.csv have, by the native decoder.

    Args:
        rows: of the machine whose decoding is meant.
        threads: that decoded; those of one where no row has as many.

    Raises:
        InputError: where there are none.
    """
    found = []
    for name, flags in FLAGS.items():
        row = _native(rows, name, threads) or _native(rows, name, 1)
        if row is None:
            continue
        found.append(
            Form(
                name=name.replace("_", " "),
                kb=float(row.options["kb"]),
                decode=cost_of(row),
                threads=int(row.options["threads"]),
                convert=flags,
                keeps_pixels=name == "original",
                least_side=LEAST_SIDES.get(name, 0),
            )
        )
    if not found:
        raise InputError("decode.csv has no row of the native decoder: run python -m bench decode first.")
    return found


def mixed(forms: Sequence[Form], machine: Machine, load: Load) -> list[Form]:
    """Images of 256 px, as many of them as pixels as stay in memory, where some do and not all."""
    found = {form.name: form for form in forms}
    if not {"256 px", "raw 256 px"} <= found.keys():
        return []
    small, raw = found["256 px"], found["raw 256 px"]
    room = machine.fitting_gb() * 1e6 / load.images  # kB of an image
    share = (room - small.kb) / (raw.kb - small.kb)
    if not 0 < share < 1:
        return []
    jpegs = 1 - share
    decode = Cost(
        seconds=jpegs * small.decode.seconds + share * raw.decode.seconds,
        core_s=jpegs * small.decode.core_s + share * raw.decode.core_s,
    )
    return [
        Form(
            name=f"256 px, {share:.0%} of them raw",
            kb=room,
            decode=decode,
            threads=small.threads,
            convert=f"--formats beton --beton proportion --proportion {jpegs:.2f} --images max_side=256",
            keeps_pixels=False,
            least_side=small.least_side,
        )
    ]


def advised(found: Sequence[tuple[Form, Prediction]]) -> Form:
    """The first form, from the original on, that none after it is worth leaving for."""
    fastest = max(prediction.images_per_s for _, prediction in found)
    return next(form for form, prediction in found if prediction.images_per_s * _SAME >= fastest)


def _native(rows: Sequence[Row], name: str, threads: int) -> Row | None:
    return next((row for row in newest(rows, "decode", set=name, threads=str(threads)) if row.what == "native"), None)
