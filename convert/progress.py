"""How far long work is: a bar on a terminal, and a line a minute where there is none, as in the log of a job."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_EVERY_S = 60.0


class Progress:
    """Counts work, for one `with` block.

    Args:
        total: of the work.
        unit: what is counted, as "img".
        desc: what stands before it.
        shown: whether anything is shown.
    """

    def __init__(self, total: int, *, unit: str = "img", desc: str = "", shown: bool = True) -> None:
        self._total, self._unit, self._desc = total, unit, desc
        self._lines = shown and not sys.stderr.isatty()
        self._start = self._told = time.monotonic()
        self._done = 0
        self._bar = tqdm(
            total=total,
            unit=unit,
            unit_scale=total > 99_999,
            desc=desc,
            disable=not shown or self._lines,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """Adds to what is done. The note, as "130 MB/s", stands behind it."""
        self._done += count
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._told >= _EVERY_S:
            self._told = now
            rate = self._done / (now - self._start)
            left = duration((self._total - self._done) / rate) if rate else "unknown time"
            parts = [f"{self._done:,} of {self._total:,} {self._unit}", f"{rate:,.0f} {self._unit}/s", note]
            print(f"{self._desc}: {', '.join(filter(None, parts))}, {left} left", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """As a person reads it: "2 h 05 min", "3 min 07 s" or "9 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
