"""A run that is killed, signalled and stopped at random moments loses no step, and leaves no process behind."""

from __future__ import annotations

import datetime
import random
from pathlib import Path

import pytest
from conftest import free_port

from bench.torture import tortured
from loaders import InputError
from twistnet import distributed


def test_a_run_that_is_hit_at_random_ends_as_one_that_was_not(tree: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    found = tortured(tree, tmp_path, steps=60, hits=6, seed=seed)
    print(found)
    assert found.steps == 60
    assert 4 <= found.hits <= 6, "on a machine without time to spare it may end before the last ones"
    assert found.restarts >= 1


def test_a_rank_whose_launcher_has_gone_already_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torchrun is killed while its ranks are starting, with the store that they would meet by."""
    about = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    about |= {"MASTER_PORT": str(free_port()), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_STORE_TIMEOUT", datetime.timedelta(seconds=1))
    with pytest.raises(InputError, match=r"the 2 processes cannot meet \(.*\): start them with torchrun"):
        with distributed.join("cpu"):
            pytest.fail("it has met nobody")
