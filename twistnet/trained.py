"""A model that has been trained, and how images are shown to it: from a run's folder, or from an export of one.

Files may be somebody else's. Of a run the checkpoint is read by `load_checkpoint`, which runs nothing of it; of an
export only JSON and safetensors are, and the model is one that timm knows by its plain name.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
import safetensors.torch
import timm
import torch
from torch import nn

from loaders import CropPolicy, InputError
from loaders.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from loaders.augment.pipeline import RGB
from loaders.errors import one_line
from twistnet.building import create, make_model
from twistnet.checkpoints import BEST, LATEST, load_checkpoint
from twistnet.distributed import World
from twistnet.predictions import NAME
from twistnet.recipe import Recipe, from_dict
from twistnet.run_folder import RunFolder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1  # of what `twistnet` says in config.json
_MAX_CONFIG = 1 << 26  # bytes; a million names of classes take a third of them
_MAX_SIZE = 4096  # pixels

_KINDS: Mapping[str, Any] = {
    "crop_pct": float,
    "interpolation": str,
    "flip_tta": bool,
    "amp": (bool, type(None)),
    "decoder": str,
}

CheckpointName: TypeAlias = Literal["best", "latest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How an image becomes the model's input, as it did where the run was evaluated.

    Attributes:
        size: side in pixels.
        crop_pct: share of the shorter side that the central square keeps.
        interpolation: of the resize: "bilinear", "bicubic" or "area".
        mean: of red, green and blue, on the scale 0 to 1.
        std: likewise.
        flip_tta: whether the logits are the mean of those of the image and its mirror image.
        amp: the precision, as `Precision.choose` takes it.
        decoder: that made the pixels in the run.
    """

    size: int
    crop_pct: float
    interpolation: str
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD
    flip_tta: bool = False
    amp: bool | None = None
    decoder: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _MAX_SIZE:
            raise InputError(f"an image size of {self.size} pixels is impossible: 1 to {_MAX_SIZE} are taken.")
        self.crops(), Augment(mean=self.mean, std=self.std)  # which check the rest

    def crops(self) -> CropPolicy:
        """Which part of an image is shown."""
        return CropPolicy(crop_pct=self.crop_pct, interpolation=self.interpolation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model that has been trained.

    Attributes:
        model: for evaluation, on the device that was asked for.
        architecture: timm's name of it.
        classes: names; an output is a place in them.
        preparation: how images are shown to it.
    """

    model: nn.Module
    architecture: str
    classes: tuple[str, ...]
    preparation: Preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run's folder says.

    Attributes:
        folder: where it lies.
        checkpoint: whose weights are meant; the final weights of a probe, which has no other.
        state: what that holds; of a probe, as much as its files say.
        recipe: the checkpoint's.
        env: env.json; empty where it is missing.
        result: result.json, which fine-tuning leaves; empty where it is missing.
        rows: of the log.
    """

    folder: Path
    checkpoint: Path
    state: Mapping[str, Any]
    recipe: Recipe
    env: Mapping[str, Any]
    result: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def is_probe(self) -> bool:
        """Whether it fitted a linear probe."""
        return _is_probe(self.result)

    @property
    def fold(self) -> int | None:
        """That it was fine-tuned on; None of pretraining."""
        found = re.fullmatch(r"train([0-9]+)", str(self.state["data"]["train_split"]))
        return int(found[1]) if found else None

    @property
    def unfinished(self) -> str | None:
        """How far a run has come that has not ended, in words; None of one that has.

        Fine-tuning ends with result.json, which its test fills, and pretraining with its last epoch.
        """
        whole = [int(row.get("epoch", 0)) for row in self.rows if row.get("kind") == "epoch"]
        done = max(int(self.state["epoch"]), *whole, 0)
        if self.result or (self.fold is None and done >= self.recipe.epochs):
            return None
        tested = "" if self.fold is None else ", not tested"
        return f"unfinished after epoch {done} of {self.recipe.epochs}{tested}"

    def trained(self, device: torch.device) -> Trained:
        """The model with the checkpoint's weights, its moving average where it has one, as the run was scored.

        Raises:
            InputError: where the weights are not the model's.
        """
        recipe = self.recipe
        classes = _names(self.state["data"].get("classes"), f"{self.checkpoint}: the list of classes")
        model = make_model(recipe, len(classes), World(rank=0, world_size=1, device=device)).eval()
        try:
            model.load_state_dict(self.state["ema"] or self.state["model"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(
                f"the weights in {self.checkpoint} are not those of {recipe.model} with {len(classes)} classes "
                f"({one_line(error, 160)}): take another run."
            ) from error
        preparation = Preparation(
            size=recipe.eval_size,
            crop_pct=recipe.crop_pct,
            interpolation=recipe.interpolation,
            flip_tta=recipe.flip_tta,
            amp=recipe.amp,
            decoder=self.state.get("decoder") or "auto",
        )
        return Trained(model=model, architecture=recipe.model, classes=classes, preparation=preparation)


def read_run(folder: Path, checkpoint: CheckpointName = "best") -> Run:
    """Reads a run's folder.

    Args:
        folder: of `twistnet pretrain` or `twistnet finetune`.
        checkpoint: "best", by validation accuracy, or "latest"; a probe has one set of weights alone.

    Raises:
        InputError: where it is no run, or has no such checkpoint.
    """
    if not folder.is_dir():
        raise InputError(f"run folder {folder} does not exist: name the --run_dir or --checkpoint_dir of a run.")
    result = _json(RunFolder(folder).result)
    if _is_probe(result):
        return _read_probe(folder, result)
    path = folder / (BEST if checkpoint == "best" else LATEST)
    if not path.is_file():
        other = LATEST if checkpoint == "best" else BEST
        instead = f"take --checkpoint {other.removesuffix('.pt')}" if (folder / other).is_file() else "name a run's"
        raise InputError(f"{folder} holds no {path.name}: {instead}, or train first.")
    state = load_checkpoint(path)
    return Run(
        folder=folder,
        checkpoint=path,
        state=state,
        recipe=from_dict(state["recipe"]),
        env=_json(folder / "env.json"),
        result=result,
        rows=RunFolder(folder).rows(),
    )


def _is_probe(result: Mapping[str, Any]) -> bool:
    return result.get("tune") == "probe"


def _read_probe(folder: Path, result: Mapping[str, Any]) -> Run:
    """A probe's run, which leaves its final weights and no checkpoint."""
    recipe, env = from_dict(_json(folder / "recipe.json")), _json(folder / "env.json")
    found = sorted(folder.glob(f"{glob.escape(recipe.model)}_*.safetensors"))
    if len(found) != 1:
        raise InputError(
            f"{folder} holds {len(found)} files {recipe.model}_*.safetensors where a probe has one: take an undamaged "
            "copy, or probe again."
        )
    (path,) = found
    try:
        model = safetensors.torch.load_file(path)
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = one_line(error, 160) or type(error).__name__
        raise InputError(f"{path} holds no weights ({reason}): take an undamaged copy, or probe again.") from error
    fold = result.get("fold")
    state = {
        **{"model": model, "ema": None, "epoch": 1, "step_in_epoch": 0},
        **{name: env.get(name) for name in ("store", "decoder", "weights_from")},
        "data": {"train_split": f"train{fold}", "val_split": f"val{fold}", "classes": _predicted(folder / NAME)},
    }
    rows = RunFolder(folder).rows()
    return Run(folder=folder, checkpoint=path, state=state, recipe=recipe, env=env, result=result, rows=rows)


def _predicted(path: Path) -> list[str]:
    """The names of the classes that a test's predictions are of."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [str(name) for name in file["classes"]]
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = one_line(getattr(error, "strerror", None) or error, 120)
        raise InputError(
            f"{path}, which names a probe's classes, cannot be read ({reason}): take an undamaged copy, or probe again."
        ) from error


def is_export(folder: Path) -> bool:
    """Whether the folder's config.json is one of ours."""
    try:
        return isinstance(_json(folder / CONFIG).get("twistnet"), dict)
    except InputError:
        return False


def read_export(folder: Path, device: torch.device) -> Trained:
    """The model of a folder that `twistnet export` has written.

    Raises:
        InputError: where it is none, or holds what no export of ours does.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG}: name the --out of twistnet export.")
    config = _json(path)
    own, cfg = config.get("twistnet"), config.get("pretrained_cfg")
    if not isinstance(own, dict) or not isinstance(cfg, dict):
        raise InputError(f"{path} is not of twistnet export: export the run again.")
    if own.get("format") != FORMAT:
        raise InputError(f"{path} has format {own.get('format')!r}, this version reads {FORMAT}: export the run again.")
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(f"{path} names the architecture {architecture!r}, which timm does not know: export again.")
    classes = _names(config.get("label_names"), f"{path}: label_names")
    if config.get("num_classes") != len(classes):
        raise InputError(
            f"{path} has {len(classes)} label_names and num_classes {config.get('num_classes')!r}: export again."
        )
    preparation = _preparation(path, own, cfg)
    model = create(architecture, len(classes), preparation.size)
    _load(model, folder / WEIGHTS, architecture)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(model=model.eval(), architecture=architecture, classes=classes, preparation=preparation)


def _preparation(path: Path, own: Mapping[str, Any], cfg: Mapping[str, Any]) -> Preparation:
    """What config.json says of the images, with every value held to its type."""
    shape = cfg.get("input_size")
    if not (_is_list(shape, int) and shape[0] == 3 and shape[1] == shape[2]):
        raise InputError(f"{path}: input_size {shape!r} is not [3, size, size]: export again.")
    for name in ("mean", "std"):
        if not _is_list(cfg.get(name), (int, float)):
            raise InputError(f"{path}: {name} {cfg.get(name)!r} is not three numbers: export again.")
    values: dict[str, Any] = {"crop_pct": cfg.get("crop_pct")} | {
        name: own.get(name) for name in _KINDS if name != "crop_pct"
    }
    for name, kind in _KINDS.items():
        if not isinstance(values[name], kind):
            raise InputError(f"{path}: {name} {values[name]!r} is impossible: export again.")
    try:
        return Preparation(size=shape[1], mean=tuple(cfg["mean"]), std=tuple(cfg["std"]), **values)
    except (InputError, OverflowError) as error:
        raise InputError(f"{path}: {error}") from None


def _load(model: nn.Module, path: Path, architecture: str) -> None:
    """Loads all weights, from safetensors alone: nothing else that may lie there is opened."""
    if not path.is_file():
        raise InputError(f"{path.parent} holds no {path.name}, the only form of weights that is read: export again.")
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = one_line(error, 160) or type(error).__name__
        raise InputError(f"{path} holds no weights of {architecture} ({reason}): export again.") from error


def _names(found: Any, what: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise InputError(f"{what} is no list of names: take another run, or export again.")
    return tuple(found)


def _is_list(value: Any, kind: type | tuple[type, ...]) -> TypeGuard[list[Any]]:
    """Whether it is a list of three such numbers."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(each) is not bool for each in value)
        and (all(isinstance(each, kind) for each in value))
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_CONFIG:
        raise InputError(f"{path} is longer than {_MAX_CONFIG:,} bytes: take an undamaged copy.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({one_line(error, 80)}): take an undamaged copy.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no JSON object: take an undamaged copy.")
    return values
