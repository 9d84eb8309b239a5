"""What a person sees while a run goes on: a bar with images a second and the time left, on rank 0 only."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress:
    """A bar over all images of a run.

    Args:
        total: images of the whole run, over all ranks.
        done: images trained on before this start.
        shown: False on all ranks but the first.
    """

    def __init__(self, *, total: int, done: int, shown: bool) -> None:
        self._shown = shown
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
        self._bar.update(images)

    def describe(self, text: str) -> None:
        """Sets what stands before the bar."""
        self._bar.set_description(text, refresh=False)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._shown:
            self._bar.write(line)
            sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
