"""What a person sees while a run goes on: a bar with images a second and the time left, on rank 0 only."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

NOTE_EVERY_S = 30.0


class Progress:
    """A bar over all images of a run.

    Args:
        total: images of the whole run, over all ranks.
        done: images trained on before this start.
        shown: False on all ranks but the first.
    """

    def __init__(self, *, total: int, done: int, shown: bool) -> None:
        self._shown = shown
        self._total, self._done, self._began = total, done, done
        self._since = self._noted = time.monotonic()
        self._description = ""
        # Without a terminal a bar would fill the log: the lines of `say` are enough there.
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="img",
            unit_scale=True,
            smoothing=0.05,
            disable=not shown or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def advance(self, images: int) -> None:
        """Counts images as trained on."""
        self._done += images
        self._bar.update(images)

    def note(self, text: str) -> None:
        """Adds a word to the bar; without a terminal prints a line instead, though not too often."""
        self._bar.set_postfix_str(text, refresh=False)
        now = time.monotonic()
        if self._shown and self._bar.disable and now - self._noted >= NOTE_EVERY_S:
            done, elapsed = self._done - self._began, now - self._since
            left = (self._total - self._done) * elapsed / max(done, 1)
            self._noted = now
            self.say(
                f"{self._description}: {self._done / self._total:.1%}, {text}, {done / elapsed:.0f} img/s, "
                f"{tqdm.format_interval(left)} left"
            )

    def describe(self, text: str) -> None:
        """Sets what stands before the bar."""
        self._description = text
        self._bar.set_description(text, refresh=False)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._shown:
            self._bar.write(line)
            sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
