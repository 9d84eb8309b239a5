"""The parts of a step against torch and timm: loss scaling, states, stochastic depth, precision, optimisers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from loaders import Batch, InputError
from twistnet.building import make_model
from twistnet.distributed import World
from twistnet.optimiser import make_optimiser
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.recipes import named
from twistnet.step import TrainStep

CPU = World(rank=0, world_size=1, device=torch.device("cpu"))
GUIDE = named("guide").with_changes(batch_size=8, size=32, eval_size=32, mix_group=4)


def step_of(name: str = "test_resnet", world: World = CPU, drop_path: float = 0.0, **changes: Any) -> TrainStep:
    torch.manual_seed(0)
    options = {"drop_path_rate": drop_path, "zero_init_last": False} if drop_path else {}
    model = timm.create_model(name, num_classes=5, **options).to(memory_format=torch.channels_last)
    return TrainStep(model, GUIDE.with_changes(**changes), world)


def batch_of(seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(5, (8,), generator=generator)
    return Batch(images, labels, labels, torch.ones(8), torch.ones(8, dtype=torch.bool), torch.arange(8))


def loss_of(step: TrainStep, batch: Batch, number: int = 0, lr: float = 0.05) -> float:
    found: list[float] = []
    step(batch, number, lr, lambda _, loss, __: found.append(float(loss)))
    return sum(found) / len(found)


def test_a_scaled_loss_changes_neither_norms_nor_steps() -> None:
    """The scaler's factor is out of the gradients before they are measured and clipped."""
    plain, scaled = (step_of(clip_grad=0.05) for _ in range(2))
    scaled.scaler = GradScaler("cpu", init_scale=1024.0)
    for number in range(3):
        assert loss_of(scaled, batch_of(number), number) == pytest.approx(loss_of(plain, batch_of(number), number))
    assert scaled.mean_grad_norm() == pytest.approx(plain.mean_grad_norm(), rel=1e-5)
    for ours, right in zip(scaled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-6)


def test_a_state_brings_the_scale_back_in_the_same_precision_only() -> None:
    first, same, other = (step_of() for _ in range(3))
    first.scaler = GradScaler("cpu", init_scale=64.0)
    loss_of(first, batch_of())
    for step in (same, other):
        step.scaler = GradScaler("cpu", init_scale=2.0)
    assert same.restore(first.state())
    assert same.scaler.get_scale() == 64.0
    assert not other.restore(first.state() | {"dtype": "torch.float16"})
    assert other.scaler.get_scale() == 2.0


def test_a_state_of_another_machine_leaves_the_kernels_of_this_one() -> None:
    step = step_of()
    (here,) = {group["fused"] for group in step.optimiser.param_groups}
    state = copy.deepcopy(step.state())
    for group in state["optimiser"]["param_groups"]:
        group["fused"] = not here
    step.restore(state)
    assert {group["fused"] for group in step.optimiser.param_groups} == {here}


def test_stochastic_depth_differs_by_rank_and_step_alone() -> None:
    ranks = [World(rank=rank, world_size=1, device=torch.device("cpu")) for rank in (0, 0, 1)]
    first, again, other = (loss_of(step_of("resnet18", world, drop_path=0.5), batch_of()) for world in ranks)
    later = loss_of(step_of("resnet18", drop_path=0.5), batch_of(), number=1)
    assert first == again
    assert len({first, other, later}) == 3


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_gradients_are_exchanged_once_a_step() -> None:
    """With the last of its passes."""
    step = step_of(batch_size=4, accumulate=2)
    parallel = nn.parallel.DistributedDataParallel(step.model)
    passes: list[int] = []
    seen: list[Tensor] = []

    def noted(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        passes.append(len(seen))
        return allreduce_hook(state, bucket)  # type: ignore[arg-type]

    # torch compares types, and annotations of this file are text.
    noted.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    parallel.register_comm_hook(None, noted)
    step.parallel = step._forward = parallel
    step(batch_of(), 0, 0.05, lambda logits, _, __: seen.append(logits))
    assert len(seen) == 2
    assert passes, "the hook sees exchanges"
    assert set(passes) == {1}, "while the second pass is under way"


@pytest.mark.parametrize(
    ("card", "amp", "has_bf16", "dtype"),
    [
        (True, None, True, torch.bfloat16),
        (True, None, False, torch.float32),
        (True, True, True, torch.bfloat16),
        (True, True, False, torch.float16),
        (True, False, True, torch.float32),
        (False, None, False, torch.float32),
        (False, True, False, torch.bfloat16),
        (False, False, False, torch.float32),
    ],
)
def test_precision_is_as_the_device_has_it(
    card: bool, amp: bool | None, has_bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    found = Precision.choose(torch.device("cuda" if card else "cpu"), amp)
    assert found.dtype == dtype
    assert found.scaler().is_enabled() == (dtype == torch.float16 and torch.amp.GradScaler("cuda").is_enabled())


@pytest.mark.parametrize(("optimiser", "kind"), [("adamw", torch.optim.AdamW), ("lamb", timm.optim.Lamb)])
def test_other_optimisers_have_the_defaults_of_their_makers(optimiser: str, kind: type[torch.optim.Optimizer]) -> None:
    model = nn.Linear(4, 2)
    ours = make_optimiser(model, GUIDE.with_changes(optimiser=optimiser)).defaults
    theirs = kind(model.parameters(), lr=0.0).defaults  # type: ignore[call-arg]
    assert {name: ours[name] for name in ("betas", "eps")} == {name: theirs[name] for name in ("betas", "eps")}


@pytest.mark.parametrize("epochs", [16, 32, 88])
def test_fast_recipes_are_scored_as_ffcvs(epochs: int) -> None:
    recipe = named(f"fast{epochs}")
    assert (recipe.eval_size, recipe.flip_tta, recipe.lr, recipe.lr_batch, recipe.total_batch(1)) == (
        *(256, True, 0.5),
        *(1024, 1024),
    )


def test_batch_norm_is_of_all_ranks_where_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Recipe = GUIDE.with_changes(model="test_resnet", sync_batch_norm=True)
    several = World(rank=0, world_size=2, device=torch.device("cpu"))
    with pytest.raises(InputError, match="sync_batch_norm needs CUDA cards"):
        make_model(recipe, 5, several)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_args, **_options: self)  # there need be no card
    card = World(rank=0, world_size=2, device=torch.device("cuda", 0))
    norms = [module for module in make_model(recipe, 5, card).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == []
    alone = World(rank=0, world_size=1, device=torch.device("cuda", 0))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in make_model(recipe, 5, alone).modules())
