"""Steps and checkpoints on a CUDA card: skipping without waiting, and copies that are whole when they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from test_skipping import RECIPES, assert_same, batch_of, everything

from loaders import Batch
from twistnet.checkpoints import LATEST, Checkpoints
from twistnet.distributed import World
from twistnet.step import TrainStep

pytestmark = pytest.mark.gpu


def step_of(kind: str) -> TrainStep:
    torch.manual_seed(0)
    world = World(rank=0, world_size=1, device=torch.device("cuda", 0))
    model = timm.create_model("test_resnet", num_classes=5).to(world.device, memory_format=torch.channels_last)
    return TrainStep(model, RECIPES[kind].with_changes(amp=False), world)


def on_card(batch: Batch) -> Batch:
    return Batch(*(tensor.cuda() for tensor in batch[:-1]), batch.ids)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_skipped_step_changes_nothing(kind: str, place: int) -> None:
    torch.backends.cudnn.deterministic = True
    try:
        with_it, without = step_of(kind), step_of(kind)
        for number in range(4):
            if number == place:
                with_it(on_card(batch_of(99, broken=True)), number, 0.05, lambda *_: None)
            for step in (with_it, without):
                step(on_card(batch_of(number)), number, 0.05, lambda *_: None)
        assert_same(everything(with_it), everything(without))
        assert with_it.skipping.read().steps == [place]
    finally:
        torch.backends.cudnn.deterministic = False


def test_a_checkpoint_is_of_the_step_that_it_was_taken_after(tmp_path: Path) -> None:
    """Though the card goes on at once, and the copies are written while it does."""
    step, writer = step_of("sgd"), Checkpoints(tmp_path, print)
    for number in range(5):
        step(on_card(batch_of(number)), number, 0.05, lambda *_: None)
        expected = {name: value.cpu() for name, value in step.model.state_dict().items()}
        writer.save({"model": step.model.state_dict(), **step.state()}, [LATEST])
        for later in range(3):
            step(on_card(batch_of(later)), later, 0.05, lambda *_: None)
        writer.finish(60)
        found = torch.load(tmp_path / LATEST, weights_only=True)["model"]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    writer.close()
