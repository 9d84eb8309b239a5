"""`--profile N`: what N steps are made of, as a Chrome trace and as a table of the costliest kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from loaders.errors import one_line

WARM_UP = 3  # steps that are left out: they compile, allocate and choose kernels
ROWS = 10  # and one for the step as a whole, which torch counts too


class Profile:
    """Records `steps` steps, once `WARM_UP` have gone by, into profile.txt and trace.json.gz of a folder.

    Args:
        steps: how many; 0 records nothing.
        folder: where the files go.
        device: what the steps run on.
        say: called with a line when they are written.
    """

    def __init__(self, steps: int, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self._folder, self._say, self._steps = folder, say, steps
        self._seen = 0
        self._by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        self._profiler: torch.profiler.profile | None = None
        if steps:
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
            self._profiler = torch.profiler.profile(
                activities=activities,
                schedule=torch.profiler.schedule(wait=0, warmup=WARM_UP, active=steps, repeat=1),
                on_trace_ready=self._write,
                acc_events=True,
            )
            self._profiler.start()

    def step(self) -> None:
        """To be called after every step."""
        if self._profiler is not None:
            self._seen += 1
            self._profiler.step()

    def close(self) -> None:
        """Ends the recording; one that is not whole yet is written as it is."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
            if self._seen <= WARM_UP:
                self._say(
                    f"[Warning] Nothing was profiled: the run has {self._seen} steps, of which {WARM_UP} warm up."
                )

    def _write(self, profiler: torch.profiler.profile) -> None:
        recorded = min(self._steps, self._seen - WARM_UP)
        if recorded < 1:
            return
        table = profiler.key_averages().table(sort_by=self._by, row_limit=ROWS + 1, max_name_column_width=80)
        try:
            (self._folder / "profile.txt").write_text(table + "\n")
            profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
        except OSError as error:  # a full disk is no reason to lose a run
            self._say(f"[Warning] {self._folder / 'profile.txt'} could not be written ({one_line(error.strerror)}).")
            return
        self._say(
            f"Profiled {recorded} steps: {self._folder / 'profile.txt'}, and trace.json.gz beside it for "
            "chrome://tracing or ui.perfetto.dev."
        )
