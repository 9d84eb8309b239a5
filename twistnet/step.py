"""One optimiser step: forward and backward passes, compiled where asked for, and the optimiser, without waiting.

    batch -> parts, one a backward pass -> logits, loss -> gradients (exchanged with the last part) -> weights

Nothing here reads a value back from the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from loaders import Batch, InputError
from loaders.errors import one_line
from loaders.philox import Purpose, bits
from twistnet.distributed import World
from twistnet.loss import training_loss
from twistnet.optimiser import make_optimiser, set_lr
from twistnet.precision import Precision
from twistnet.recipe import Recipe
from twistnet.skipping import Skipping
from twistnet.tuning import set_training

Compile: TypeAlias = Literal["auto", "off", "on", "graphs"]
Count: TypeAlias = Callable[[Tensor, Tensor, Batch], None]
# How torch names what it cannot compile: its own errors, and those of the compilers that it calls.
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


class TrainStep:
    """A model with its optimiser, trained a batch at a time.

    Args:
        model: on the world's device, channels_last.
        recipe: how to train.
        world: this rank among the others, which all take the same steps.
        compiling: "on" compiles the model for each size of image when it first comes; "graphs" also replays it by CUDA
            graphs, which hides the launches of small batches; "auto" is "on" on a card and "off" on a CPU.

    Attributes:
        optimiser: torch's, or timm's.
        scaler: of the loss; it does nothing unless float16 needs it.
        skipping: of steps whose gradient is not finite.
        ema: the moving average of weights and buffers, where the recipe has one.
        grad_norm: (2,) float64 on the device: the sum of the gradients' norms, and how many were finite.
        compile_s: seconds that first steps took, in which the model was compiled, by the side of the images.

    Raises:
        InputError: for a choice of `compiling` that cannot work.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, world: World, *, compiling: Compile = "off") -> None:
        if compiling not in get_args(Compile):
            raise InputError(f"--compile {compiling} is unknown: choose one of {', '.join(get_args(Compile))}.")
        if compiling == "graphs" and (world.device.type != "cuda" or recipe.accumulate > 1):
            raise InputError("--compile graphs needs a CUDA card and one backward pass a step: pass --compile on.")
        if compiling == "auto":
            compiling = "on" if world.device.type == "cuda" else "off"
        self.model, self.recipe, self.world = model, recipe, world
        self.precision = Precision.choose(world.device, recipe.amp)
        self.optimiser = make_optimiser(model, recipe)
        self.scaler = self.precision.scaler()
        self.skipping = Skipping(model, self.optimiser)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.grad_norm = torch.zeros(2, dtype=torch.float64, device=world.device)
        self.compile_s: dict[int, float] = {}
        self.parallel = world.wrap(
            model, static=recipe.accumulate == 1, compress=recipe.compress_gradients and world.world_size > 1
        )
        self._compiling = compiling
        self._forward: Callable[[Tensor], Tensor] = self.parallel
        if compiling != "off":
            mode = "reduce-overhead" if compiling == "graphs" else None
            self._forward = torch.compile(self.parallel, mode=mode, dynamic=False)
        self._loss = training_loss(recipe.loss)

    @property
    def models(self) -> nn.ModuleList:
        """The model, and the moving average where there is one: all that has running statistics."""
        return nn.ModuleList([self.model] if self.ema is None else [self.model, self.ema.module])

    @property
    def scored(self) -> nn.Module:
        """What is evaluated and kept: the moving average where there is one, else the model."""
        return self.model if self.ema is None else cast(nn.Module, self.ema.module)

    def start_training(self) -> None:
        """To be called before an epoch's steps: puts into training what the recipe trains."""
        set_training(self.parallel, self.recipe.tune != "all")

    def compiles(self, size: int) -> bool:
        """Whether a first step on images of this side is still to come, which compiles the model."""
        return self._compiling != "off" and size not in self.compile_s

    def __call__(self, batch: Batch, step: int, lr: float, count: Count) -> None:
        """Takes a step.

        Args:
            batch: of `batch_size * accumulate` samples.
            step: its number in the run, which seeds stochastic depth.
            lr: its learning rate.
            count: called with the logits (B, C), the loss and the batch of each pass, detached.

        Raises:
            InputError: where the model cannot be compiled.
        """
        size = batch.images.shape[-1]
        if not self.compiles(size):
            self._step(batch, step, lr, count)
            return
        start = time.perf_counter()
        try:
            self._step(batch, step, lr, count)
        except Exception as error:
            if not type(error).__module__.startswith(_COMPILERS):
                raise
            raise InputError(
                f"the model cannot be compiled ({one_line(error, 200)}): pass --compile off, or see twistnet doctor."
            ) from error
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)  # once a size: this is a time that people are told
        self.compile_s[size] = time.perf_counter() - start

    def _step(self, batch: Batch, step: int, lr: float, count: Count) -> None:
        set_lr(self.optimiser, lr)
        # Stochastic depth draws from torch's generator: seeded by the step, it has no state to save.
        words = bits(self.recipe.seed, step, np.array([self.world.rank]), Purpose.MODEL, 2)[0]
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        self.skipping.before()
        parts = [Batch(*tensors) for tensors in zip(*(t.chunk(self.recipe.accumulate) for t in batch), strict=True)]
        for index, part in enumerate(parts):
            if self._compiling == "graphs":
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            with self._gradients_stay_here(index < len(parts) - 1):
                with self.precision.autocast():
                    logits = self._forward(part.images)
                    loss = self._loss(logits, part, self.recipe.label_smoothing)
                torch.autograd.backward(self.scaler.scale(loss / len(parts)))
            count(logits.detach(), loss.detach(), part)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if self.recipe.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.clip_grad, norm)
        finite = norm.isfinite()  # the same on all ranks
        self.grad_norm += torch.stack((norm.where(finite, 0.0), finite.to(norm.dtype))).double()
        if self.scaler.is_enabled():  # for float16: it leaves such steps out by itself
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.skipping.update(finite)
        self.skipping.after(finite, step)
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=step + 1)

    def _gradients_stay_here(self, more_to_come: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients with the last backward pass of a step only."""
        if more_to_come and isinstance(self.parallel, nn.parallel.DistributedDataParallel):
            return cast(AbstractContextManager[None], self.parallel.no_sync())
        return nullcontext()

    def mean_grad_norm(self) -> float:
        """The mean norm of the gradients since the last call; waits for the device."""
        total, steps = self.grad_norm.tolist()
        self.grad_norm.zero_()
        return float(total / steps) if steps else 0.0

    def state(self) -> dict[str, Any]:
        """What the next step depends on, but the model; its order and draws are functions of the step."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "dtype": str(self.precision.dtype),
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Goes on from a `state`; whether it was trained in the precision of this device."""
        kernels = [group.get("fused") for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, fused in zip(self.optimiser.param_groups, kernels, strict=True):
            if "fused" in group:
                group["fused"] = fused  # this machine's, not that of the card that the checkpoint was taken on
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        same = bool(state["dtype"] == str(self.precision.dtype))
        if same:
            self.scaler.load_state_dict(state["scaler"])
        return same
