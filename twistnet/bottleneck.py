"""Which stage bounds a run: one rule for the training log, the bench and its projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WAITING = 0.05  # of the time: less is what the ends of queues leave
# Of a step's time. What a thread takes to hand over a batch, or a card to be given work again, is less.
WAITED = 0.05
# Stages whose threads do one after the other: the loader's batch threads, its uploading thread, and who trains.
_LOADING = (("stage", "read", "decode"), ("upload", "augment"))
TRAINING = ("step", "all-reduce")
_FROM_DISK = 4096  # bytes of an image, a page: less is what a set that is in memory still reads
_IDLE = 0.4  # of the decoding cores' time while steps wait: what they wait for is not their own work


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a rank has seen of some steps.

    Attributes:
        seconds: that they took.
        steps: how many of them are known to have waited or not.
        waited_steps: how many waited for data.
        waited_s: seconds that they waited for it.
        stages: seconds of every stage of loading, as `loaders.Loader.seconds` counts them.
        cpu_s: seconds of a core that the process took.
        read_bytes: that it read from disks.
        images: that it trained on.
        rank: the rank.
    """

    seconds: float
    steps: int
    waited_steps: int
    waited_s: float
    stages: Mapping[str, float]
    cpu_s: float = 0.0
    read_bytes: int = 0
    images: int = 0
    rank: int = 0

    @property
    def waited(self) -> float:
        """Share of the time, 0 to 1."""
        return self.waited_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def waited_share(self) -> float:
        """Of the steps, 0 to 1, rounded for people to read."""
        return round(self.waited_steps / self.steps, 3) if self.steps else 0.0

    def bound(self, threads: int) -> str:
        """The stage that bounds these steps.

        Args:
            threads: that decode, or the cores, where those are fewer.
        """
        return bound_by(self.waited, self._busy(threads))

    def _busy(self, threads: int) -> Mapping[str, float]:
        seconds = max(self.seconds, 1e-9)
        # Two batches are staged, read and decoded at once; who uploads waits for memory that an upload still reads.
        stage, read, decode = (self.stages.get(name, 0.0) / seconds / 2 for name in _LOADING[0])
        upload = (self.stages.get("upload", 0.0) + self.stages.get("buffer", 0.0)) / seconds
        from_disk = self.read_bytes >= _FROM_DISK * max(1, self.images)
        idle_s = threads * self.seconds - self.cpu_s
        if from_disk and idle_s > _IDLE * threads * self.waited_s:
            # Mapped files are read by whoever touches them first, and that is the decoder.
            read, decode = read + decode, 0.0
        augment = self.stages.get("augment", 0.0) / seconds
        return {"stage": stage, "read": read, "decode": decode, "upload": upload, "augment": augment}


def bound_by(waited: float, busy: Mapping[str, float]) -> str:
    """The stage that bounds a run.

    Args:
        waited: share of the time in which steps wait for data, 0 to 1.
        busy: the share of the time that each stage works, of all that its threads could: of "stage", "read", "decode",
            "upload", "augment", "step" and "all-reduce" those that there are.

    Returns:
        Where steps wait, the busiest stage of the busiest threads of loading; else "step" or "all-reduce".
    """
    if waited < WAITING:
        return max(TRAINING, key=lambda name: busy.get(name, 0.0))
    threads = max(_LOADING, key=lambda names: sum(busy.get(name, 0.0) for name in names))
    return max(threads, key=lambda name: busy.get(name, 0.0))
