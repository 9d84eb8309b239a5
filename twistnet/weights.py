"""Trained weights: found, checked, loaded and counted; any timm model's, not only TwistNet's.

A tensor that does not fit is an error, except those of the classifier, and what was loaded is reported by numbers.
Files may be somebody else's: nothing in them is executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from loaders.errors import InputError
from loaders.files import write_atomically
from twistnet.archives import is_archive, refuse_swollen
from twistnet.model import TwistNet
from twistnet.stci import fuse_heads

SUFFIXES = (".pt", ".safetensors")
REPOSITORY = Path(__file__).resolve().parent.parent
HUB_PROBE_S = 5.0
WAY_OUT = "or pass `--weights none` to train from scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What was loaded into a model.

    Attributes:
        path: the file, or the name of timm's model that the weights come from.
        tensors: how many of its tensors were used.
        parameters: how many of the model's parameters they set.
        total_parameters: how many parameters the model has.
        skipped: classifier tensors left out, because file and model differ there (other classes, or none).
        sha256: of the file; None for timm's.
    """

    path: str
    tensors: int
    parameters: int
    total_parameters: int
    skipped: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def share(self) -> float:
        """Parameters set, of all the model's, 0 to 1."""
        return self.parameters / self.total_parameters

    def message(self, model_name: str = "TwistNet") -> str:
        """Two lines for a person: what was loaded from where, and how much of the model that is."""
        counts = (
            f"{self.tensors} tensors set {self.parameters:,} of {self.total_parameters:,} parameters "
            f"({100 * self.share:.1f} %)"
        )
        if self.skipped:
            counts += f"; the classifier does not fit and stays as it was: {', '.join(self.skipped)}"
        return f"[{model_name} Pretrained] Loaded {self.tensors} layers from {_shown(self.path)}\n{counts}"


def load(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load weights from a file into a model, completely but for a classifier of other classes.

    Args:
        model: a timm model, TwistNet or another, on any device.
        path: `.safetensors`, or a file of torch: a state dict, or a training checkpoint with one under "ema",
            "model" or "state_dict". The prefixes that DistributedDataParallel and torch.compile add are removed.
            TwistNets of the authors' code load too.

    Raises:
        InputError: there is no such file, it cannot be read, or a tensor outside the classifier is missing, unknown
            or of another shape. The model is unchanged then.
    """
    report = _load_state(model, _read(Path(path)), str(path))
    return dataclasses.replace(report, sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest())


def find(model_name: str, start: Path | None = None) -> Path | None:
    """The weights file that a model finds by itself: `weights/<model_name>_imagenet.pt`, else `.safetensors`.

    Looked for below `start` (by default the working directory), then below the repository.
    """
    for folder in (start or Path.cwd(), REPOSITORY):
        for suffix in SUFFIXES:
            path = folder / "weights" / f"{model_name}_imagenet{suffix}"
            if path.is_file():
                return path
    return None


def auto_load(
    model: nn.Module,
    model_name: str,
    choice: str | os.PathLike[str] = "auto",
    announce: Callable[[str], object] = print,
) -> LoadReport | None:
    """Load the weights that a run starts from, and say which.

    Args:
        model: the model, of `model_name`.
        model_name: timm's name of it; the name of its weights file.
        choice: "none" for random weights, the path of a file, or "auto": the file that `find` finds, else timm's own
            pretrained weights. timm has none for TwistNet: there its ResNet-18 initialises the stem and two stages.
        announce: gets each message.

    Returns:
        What was loaded; None for "none".

    Raises:
        InputError: see `load`; or nothing was found and timm cannot give weights, as without a network.
    """
    if choice == "none":
        return None
    label = "TwistNet" if isinstance(model, TwistNet) else model_name
    path = find(model_name) if choice == "auto" else Path(choice).expanduser()
    if path is not None:
        if choice == "auto":
            announce(f"[Auto-detected] Found {label} weights: {_shown(path)}")
        report = load(model, path)
    elif isinstance(model, TwistNet):
        source = _timm_pretrained("resnet18", model_name, model.in_chans)
        report = copy_resnet18_stem(model, source.state_dict())
        announce(
            f"[Warning] There is no weights/{model_name}_imagenet.pt: timm's resnet18 initialises only "
            f"{100 * report.share:.1f} % of the parameters, which is not recommended; pretrain {model_name} first."
        )
    else:
        source = _timm_pretrained(model_name, model_name, getattr(model, "in_chans", 3))
        report = _load_state(model, source.state_dict(), f"timm's {model_name}")
    announce(report.message(label))
    return report


def copy_resnet18_stem(model: TwistNet, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy stem, stage 1 and stage 2 of a ResNet-18 into a TwistNet.

    Args:
        model: the TwistNet to initialise.
        state: state dict of timm's resnet18; its other stages and its classifier are not used.

    Raises:
        InputError: a tensor of these stages is missing or of another shape. The model is unchanged then.
    """
    ours = {"conv1": "stem.0", "bn1": "stem.1", "layer1": "layer1", "layer2": "layer2"}
    copied = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module in ours:
            copied[f"{ours[module]}.{rest}"] = tensor
    # What a ResNet-18 lacks keeps its value: later stages, the classifier, interactions in a stage that twists.
    kept = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(("stem.", "layer1.", "layer2.")) or ".mhstci." in name or name.endswith(".gate")
    }
    return _set(model, copied, kept, origin="timm's resnet18", tensors=len(copied))


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's weights as `path` (a `.pt` file) and, beside it, as `.safetensors`, each atomically.

    Raises:
        InputError: `path` does not end in `.pt`.
    """
    target = Path(path)
    if target.suffix != ".pt":
        raise InputError(f"{path} ends in {target.suffix!r} where `.pt` is expected: name the file {target.stem}.pt.")
    # Copies, because safetensors refuses tensors that share memory.
    state = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in model.state_dict().items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: torch.save(state, file))
    serialised = safetensors.torch.save(state, metadata={"format": "pt"})
    write_atomically(target.with_suffix(".safetensors"), lambda file: file.write(serialised))


def _shown(path: str | Path) -> str:
    """The path relative to the working directory where it lies inside."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"There is no weights file {path}: check the path, {WAY_OUT}.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            if is_archive(path):
                with zipfile.ZipFile(path) as archive:
                    refuse_swollen(path, archive)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = type(error).__name__
        raise InputError(
            f"{path} cannot be read as weights ({reason}): give a .safetensors file, or a .pt file of tensors and "
            f"plain values only, {WAY_OUT}."
        ) from error
    for key in ("ema", "model", "state_dict"):  # a run with a moving average is scored by that
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} holds no named tensors: give a file of weights, {WAY_OUT}.")
    for name, value in content.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise InputError(
                f"{path} has an entry {name!r} that is no whole tensor: give a file of weights, {WAY_OUT}."
            )
    state: dict[str, Tensor] = dict(content)
    for prefix in ("module.", "_orig_mod.", "module."):  # either of the two wrappers can be the outer one
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_dense(value: object) -> bool:
    """Whether a value from a file is a tensor whose elements are all stored; a small file can claim a huge one."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _load_state(model: nn.Module, state: dict[str, Tensor], origin: str) -> LoadReport:
    """Load a whole state dict, in our layout or the authors', leaving out a classifier that does not fit."""
    stored = set(state)
    if isinstance(model, TwistNet):
        state = fuse_heads(state)
    own = model.state_dict()
    kept: dict[str, Tensor] = {}
    skipped: set[str] = set()
    for classifier in _classifiers(model):
        in_file = {name: tensor for name, tensor in state.items() if name.startswith(f"{classifier}.")}
        in_model = {name: tensor for name, tensor in own.items() if name.startswith(f"{classifier}.")}
        if {name: t.shape for name, t in in_file.items()} != {name: t.shape for name, t in in_model.items()}:
            state = {name: tensor for name, tensor in state.items() if name not in in_file}
            kept |= in_model
            skipped |= set(in_file) | set(in_model)
    return _set(model, state, kept, origin=origin, tensors=len(stored - skipped), skipped=tuple(sorted(skipped)))


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the classifier's modules, as timm knows them; none for a model that is not timm's."""
    names = "fc" if isinstance(model, TwistNet) else getattr(model, "pretrained_cfg", {}).get("classifier", ())
    return (names,) if isinstance(names, str) else tuple(names)


def _set(
    model: nn.Module,
    state: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    *,
    origin: str,
    tensors: int,
    skipped: tuple[str, ...] = (),
) -> LoadReport:
    """Write `state` into the model, once it is known to give every tensor but the `kept` ones, and no other."""
    own = model.state_dict()
    wrong = [
        f"{name} is {_kind(state[name])} there and {_kind(own[name])} in the model"
        for name in state
        if name in own and _kind(state[name]) != _kind(own[name])
    ]
    problems = (
        _first("missing tensors", [name for name in own if name not in state and name not in kept]),
        _first("unexpected tensors", [name for name in state if name not in own]),
        _first("wrong tensors", wrong),
    )
    if any(problems):
        raise InputError(
            f"{origin} does not fit the model, which is unchanged: {'; '.join(filter(None, problems))}; build the "
            f"model that the weights were trained as, give other weights, {WAY_OUT}."
        )
    model.load_state_dict({**state, **kept})
    parameters = dict(model.named_parameters())
    return LoadReport(
        path=origin,
        tensors=tensors,
        parameters=sum(parameter.numel() for name, parameter in parameters.items() if name in state),
        total_parameters=sum(parameter.numel() for parameter in parameters.values()),
        skipped=skipped,
    )


def _kind(tensor: Tensor) -> str:
    """Shape and sort of number: any floating precision loads into any other, but no integer into a weight."""
    return f"{tuple(tensor.shape)} of {'floats' if tensor.is_floating_point() else 'integers'}"


def _first(problem: str, names: Sequence[str], limit: int = 3) -> str:
    """The problem, the first names and how many more there are; empty where there are none."""
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{problem} {', '.join(names[:limit])}{more}"


def _timm_pretrained(source: str, model_name: str, in_chans: int) -> nn.Module:
    """timm's pretrained `source`, from the hub's local cache or downloaded, for want of weights of `model_name`.

    Raises:
        InputError: timm has no such weights, or they cannot be fetched.
    """
    try:
        overlay = {}
        hub_id = getattr(timm.models.get_pretrained_cfg(source), "hf_hub_id", None)
        if hub_id:
            cached = huggingface_hub.try_to_load_from_cache(hub_id, "model.safetensors")
            if isinstance(cached, str):
                overlay["file"] = cached
            else:
                # One request first: without a network the hub's client would try again for most of a minute.
                huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_PROBE_S)
        model: nn.Module = timm.create_model(source, pretrained=True, in_chans=in_chans, pretrained_cfg_overlay=overlay)
    except Exception as error:  # hub, network, cache and timm raise errors of many kinds
        raise InputError(
            f"There is no weights/{model_name}_imagenet.pt and timm's pretrained {source} cannot be had "
            f"({type(error).__name__}): put trained weights at that path, {WAY_OUT}."
        ) from error
    return model
