"""Our loaders beside their peers, from rows that were measured in interleaved rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.reading import Row, newest

OURS = ("native", "native, the guide's")
# Of bench.loaders, in the order of the README's table; the others are ours with another decoder.
PEERS = {
    "FFCV": "FFCV",
    "DALI on the CPU": "DALI's CPU backend",
    "DALI on the CPU with its own RandAugment": "DALI's CPU backend, its RandAugment",
    "torchvision v2 uint8": "torchvision v2 on uint8",
    "torchvision, the guide's": "the guide's pipeline",
    "timm": "timm",
    "webdataset with torchvision v2 uint8": "webdataset, torchvision v2",
}
_SETS = {
    "tree": "folders",
    "shards": "shards",
    "500_px_.beton": ".beton, JPEGs of 500 px",
    "400_px_.beton": ".beton, JPEGs of 400 px",
    "raw_256_px_.beton": ".beton, pixels of 256 px",
    "augmented_tree": "folders, augmented",
}


# As the table's words say; others are of other questions.
_COMPARED = {"batch": "128", "size": "224", "data": "photographs_of_packages"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Our rate over a peer's.

    Attributes:
        set: what both read, as rows call it.
        peer: for people.
        ours: our row.
        theirs: the peer's.
        each: of every round, in order.
    """

    set: str
    peer: str
    ours: Row
    theirs: Row
    each: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    @property
    def low(self) -> float:
        return min(self.each)

    @property
    def high(self) -> float:
        return max(self.each)

    @property
    def shown_set(self) -> str:
        """For people."""
        return _SETS[self.set]


def peers(rows: Sequence[Row]) -> list[Ratio]:
    """Our loader beside each peer on every set, each of the newest run that has that peer, in PEERS' order."""
    found = []
    for peer, shown in PEERS.items():
        for name in _SETS:
            theirs = _last(rows, name, (peer,))
            if theirs is None:
                continue
            ours = _last([row for row in rows if row.columns["run"] == theirs.columns["run"]], name, OURS)
            if ours is not None and len(ours.rounds) == len(theirs.rounds) > 0:
                each = tuple(a / b for a, b in zip(ours.rounds, theirs.rounds, strict=True))
                found.append(Ratio(set=name, peer=shown, ours=ours, theirs=theirs, each=each))
    return found


def table(rows: Sequence[Row]) -> list[str]:
    """The README's lines of Markdown: ratios to peers, and what both took."""
    lines = [
        "| peer | both read | the peer's images/s | ours | ours as a multiple (lowest to highest round, n) "
        "| first batch, ours and the peer's | largest memory, ours and the peer's |",
        "|---|---|---|---|---|---|---|",
    ]
    for ratio in peers(rows):
        ours, theirs = ratio.ours, ratio.theirs
        first, memory = (
            [_measured(row, column, form, unit) for row in (ours, theirs)]
            for column, form, unit in (("first_batch_s", ".1f", "s"), ("memory_mib", ",.0f", "MiB"))
        )
        lines.append(
            f"| {ratio.peer} | {ratio.shown_set} | {theirs.images_per_s:,.0f} | {ours.images_per_s:,.0f} "
            f"| {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}, {len(ratio.each)}) "
            f"| {first[0]}, {first[1]} | {memory[0]}, {memory[1]} |"
        )
    return lines


def _measured(row: Row, column: str, form: str, unit: str) -> str:
    return f"{row.number(column):{form}} {unit}" if row.columns.get(column) else "not measured"


def _last(rows: Sequence[Row], name: str, whats: Sequence[str]) -> Row | None:
    fitting = (row for row in rows if row.what in whats and row.rounds and "limit_mib" not in row.options)
    return next(iter(newest(fitting, "loaders", set=name, **_COMPARED)), None)
