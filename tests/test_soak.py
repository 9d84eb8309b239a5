"""Training with checkpoints, step after step, holds no more than it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import soak
from bench.soak import Use, soaked
from loaders import InputError


def test_hundreds_of_batches_leave_nothing_behind(tree: Path, tmp_path: Path) -> None:
    use = soaked(tree, tmp_path / "run", steps=400, workers=2, checkpoint_steps=5)
    assert len(use.resident) >= 400
    use.refuse_growth()


def used(**values: list[float]) -> Use:
    flat = {what: [10.0] * 400 for what in ("resident", "threads", "handles", "shared")}
    return Use(**{**flat, **values})


def test_what_grows_is_refused() -> None:
    used().refuse_growth()
    used(threads=[10.0 + place % 7 for place in range(400)]).refuse_growth()
    for what in ("threads", "handles", "shared"):
        with pytest.raises(InputError, match=f"{what} grew from 12 to 13 in the second half: they leak"):
            used(**{what: [10.0 + place // 100 for place in range(400)]}).refuse_growth()
    late = [100.0] * 200 + [100 + 0.2 * place for place in range(200)]
    with pytest.raises(InputError, match=r"memory grew by 30\.0 MiB in the second half, from 100"):
        used(resident=late).refuse_growth()
    used(resident=[10.0 * place for place in range(200)] + [2000.0] * 200).refuse_growth()


def test_a_leak_is_seen(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    note = Use.note

    def leaks(use: Use) -> None:
        kept.append((tmp_path / "leak").open("a"))
        note(use)

    monkeypatch.setattr(soak.Use, "note", leaks)
    use = soaked(tree, tmp_path / "run", steps=200, workers=1, checkpoint_steps=20)
    with pytest.raises(InputError, match="handles grew"):
        use.refuse_growth()
    for file in kept:
        file.close()
