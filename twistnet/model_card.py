"""The model card of an export, in Hugging Face's format: filled from the run's own files, and silent where they are.

front matter   what it is   results   use   training   data   made with   limits
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from torch import nn

from launch.version import VERSION
from loaders.sources import shown as without_secrets
from twistnet.arguments import shown
from twistnet.checkpoints import BEST
from twistnet.counting import parameters
from twistnet.model import TwistNet
from twistnet.onnx_export import INPUT, OPSET, OUTPUT, TOLERANCE
from twistnet.trained import Run, Trained

CARD = "README.md"
_CLASSES_SHOWN = 20
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
_PAPER = "https://arxiv.org/abs/2602.07262"
_OWN_CLASSES = "folder"  # what result.json calls a data set of one's own


def model_card(
    run: Run, trained: Trained, *, name: str, license: str | None, onnx: str | None, difference: float | None
) -> str:
    """The card's text.

    Args:
        run: what it is filled from.
        trained: the model.
        name: of the export's folder, for the examples.
        license: of the model; None: not stated.
        onnx: the ONNX file's name; None where there is none.
        difference: of its outputs from torch's, as `write_onnx` found it.
    """
    facts = _Facts(run, trained)
    sections = (
        f"# {facts.title}\n\n{_intro(facts)}",
        _results(facts),
        _use(facts, name, onnx, difference),
        _training(facts),
        _data(facts),
        _made_with(facts),
        _limits(facts, license),
    )
    header = yaml.safe_dump(_front_matter(facts, license), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{header}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


class _Facts:
    """What the run says, by the names that the card uses."""

    def __init__(self, run: Run, trained: Trained) -> None:
        self.run, self.trained, self.recipe = run, trained, run.recipe
        state = run.state
        self.data: Mapping[str, Any] = state["data"]
        self.epoch = int(state["epoch"])
        self.is_best = run.checkpoint.name == BEST
        whole = [row for row in run.rows if row.get("kind") == "epoch"]
        self.epochs = [row for row in whole if int(row.get("epoch", 0)) <= self.epoch]
        stopped_inside = int(state.get("step_in_epoch") or 0) > 0
        at = [row for row in self.epochs if row["epoch"] == self.epoch]
        self.validation: Mapping[str, Any] = at[-1] if at and not stopped_inside else {}
        if run.is_probe:
            self.validation = {"val_top1": run.result["val_top1"]} if "val_top1" in run.result else {}
        # The test is of the best epoch's weights: whatever others an export holds were not tested.
        tested = run.result.get("best_epoch") == self.epoch and not stopped_inside
        self.test: Mapping[str, Any] = run.result if tested else {}
        self.fold = run.fold
        self.dataset = str(run.result["dataset"]) if run.result.get("dataset") else None
        self.weights_from: Mapping[str, Any] | None = state.get("weights_from")
        self.stopped = self.epoch < self.recipe.epochs and not self.is_best and not run.is_probe
        self.world_size = int(run.env.get("world_size") or 1)

    @property
    def title(self) -> str:
        known = self.dataset and self.dataset != _OWN_CLASSES
        probe = ", linear probe" if self.run.is_probe else ""
        return f"{self.recipe.model}, {self.dataset if known else f'{len(self.trained.classes)} classes'}{probe}"

    @property
    def parameters(self) -> int:
        return parameters(self.trained.model)


def _front_matter(facts: _Facts, license: str | None) -> dict[str, Any]:
    known = facts.dataset is not None and facts.dataset != _OWN_CLASSES
    found: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-classification"}
    if license:
        found["license"] = license.strip()
    found["tags"] = ["image-classification", "timm", *(["twistnet"] if _is_twistnet(facts.trained.model) else [])]
    if known:
        found["datasets"] = [facts.dataset]
    found["metrics"] = ["accuracy"]
    metrics = [
        {"type": "accuracy", "value": round(float(facts.test[key]), 4), "name": name}
        for key, name in (
            ("test_top1", "Test accuracy"),
            ("test_top5", "Test accuracy, top-5"),
            ("test_balanced", "Test accuracy, class-balanced"),
        )
        if facts.test.get(key) is not None
    ]
    if known and metrics:
        dataset = {"type": facts.dataset, "name": facts.dataset, "split": _split("test", facts)}
        task = {"type": "image-classification"}
        found["model-index"] = [
            {"name": facts.recipe.model, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
        ]
    return found


def _intro(facts: _Facts) -> str:
    recipe, classes, size = facts.recipe, facts.trained.classes, facts.trained.preparation.size
    named = [f"`{_cell(name)}`" for name in classes[:_CLASSES_SHOWN]]
    more = f" and {len(classes) - len(named):,} more, which `config.json` lists" if len(classes) > len(named) else ""
    what = "`" + recipe.model + "` "
    if _is_twistnet(facts.trained.model):
        what = f"A TwistNet ([arXiv 2602.07262]({_PAPER})), a ResNet-18 with second-order interactions of channels: `"
        what += f"{recipe.model}` "
    lines = [
        f"{what}sorts images of {size} x {size} pixels into {len(classes):,} classes with {facts.parameters:,} "
        f"parameters.",
        f"Classes: {', '.join(named)}{more}.",
    ]
    begun = "random weights"
    if facts.weights_from:
        origin = str(facts.weights_from["path"]).replace("\\", "/").rsplit("/", 1)[-1]
        begun = f"the weights `{_cell(origin)}`, which set {int(facts.weights_from['parameters']):,} of its parameters"
        if digest := facts.run.result.get("weights_sha256"):
            begun += f" (SHA-256 `{_cell(str(digest)[:16])}...`)"
    where = f" on fold {facts.fold}" if facts.fold is not None else ""
    where += f" of {facts.dataset}" if facts.dataset and facts.dataset != _OWN_CLASSES else ""
    lines.append(f"It was trained{where} from {begun}.")
    if facts.run.is_probe:
        lines.append(
            "It is a linear probe: a logistic regression on the features of the frozen backbone, whose regularisation "
            "was chosen by validation accuracy."
        )
        return "\n\n".join(" ".join(part) for part in (lines[:2], lines[2:]))
    average = f" They are a moving average, {recipe.ema_decay:g} a step." if facts.run.state["ema"] else ""
    chosen = "the best by validation accuracy" if facts.is_best else "the last that were saved"
    lines.append(f"These weights are those after epoch {facts.epoch} of {recipe.epochs}, {chosen}.{average}")
    return "\n\n".join(" ".join(part) for part in (lines[:2], lines[2:]))


def _results(facts: _Facts) -> str:
    validation, test = facts.validation, facts.test
    rows = []
    if "val_top1" in validation:
        chosen = "regularisation" if facts.run.is_probe else "epoch" if facts.is_best else ""
        note = f", which chose the {chosen}" if chosen else ""
        measured = [validation.get(key) for key in ("val_top1", "val_top5")]
        rows.append((f"{facts.data['val_split']}{note}", validation.get("val_samples"), *measured, None))
    if "test_top1" in test:
        measured = [test.get(key) for key in ("test_top1", "test_top5", "test_balanced")]
        rows.append((f"{_split('test', facts)}, tested once", test.get("test_samples"), *measured))
    if not rows:
        return ""
    heads = ("split", "images", "top-1", "top-5", "class-balanced top-1")
    used = [place for place in range(len(heads)) if any(row[place] is not None for row in rows)]
    table = [[_figure(row[place], place) for place in used] for row in rows]
    mirrored = " Logits are the mean of those of each image and its mirror image." if facts.recipe.flip_tta else ""
    return f"## Results\n\n{_table([heads[place] for place in used], table)}" + (f"\n\n{mirrored[1:]}" * bool(mirrored))


def _use(facts: _Facts, name: str, onnx: str | None, difference: float | None) -> str:
    twistnet = _is_twistnet(facts.trained.model)
    size = facts.trained.preparation.size
    folder = shown(name)
    registers = "import twistnet  # registers the model with timm\n" if twistnet else ""
    text = f"""## Use

With timm, from this folder (`hf-hub:OWNER/NAME` once it is on the hub):

```python
import timm
import torch
{registers}from PIL import Image

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = transform(Image.open("image.jpg").convert("RGB"))
with torch.no_grad():
    probabilities = model(image.unsqueeze(0)).softmax(dim=1)[0]
for probability, place in zip(*probabilities.topk({min(5, len(facts.trained.classes))})):
    print(f"{{probability:.1%}} {{model.pretrained_cfg['label_names'][place]}}")
```

On images and folders, with the very pixels that the run was evaluated on:

```bash
twistnet predict image.jpg folder/ --model_dir {folder}
```"""
    if onnx:
        held = "not compared with torch's, for want of onnxruntime"
        if difference is not None:
            held = f"within {TOLERANCE:g} of torch's by onnxruntime on random images"
        text += (
            f"\n\n`{onnx}` (opset {OPSET}) takes `{INPUT}`, float32 (batch, 3, {size}, {size}) normalised as above, "
            f"and gives `{OUTPUT}`, (batch, {len(facts.trained.classes)}); its outputs are {held}."
        )
    return text


def _training(facts: _Facts) -> str:
    recipe = facts.recipe
    total = recipe.total_batch(facts.world_size)
    summary = (
        f"{recipe.epochs} epochs by {recipe.optimiser.upper()} at a total batch of {total} and a peak learning rate of "
        f"{recipe.peak_lr(facts.world_size):g}, after {recipe.warmup_epochs} of warm-up, {recipe.schedule} decay; seed "
        f"{recipe.seed}. The recipe is `{_cell(recipe.name)}` of twistnet, with the values below."
    )
    if facts.run.is_probe:
        summary = (
            "A logistic regression was fitted to features of central crops, without a step of training; what the "
            f"recipe `{_cell(recipe.name)}` of twistnet, below, says of epochs and steps had no part in it."
        )
    values = [(f"`{key}`", f"`{_cell(json.dumps(value))}`") for key, value in recipe.to_dict().items() if key != "name"]
    folded = (
        f"<details><summary>All values of the recipe</summary>\n\n{_table(('name', 'value'), values)}\n\n</details>"
    )
    return f"## Training\n\n{summary}\n\n{folded}"


def _data(facts: _Facts) -> str:
    data, run, shown_as = facts.data, facts.run, facts.trained.preparation
    part = {"bilinear": "antialiased bilinear", "bicubic": "antialiased bicubic", "area": "OpenCV's INTER_AREA"}
    prints = [
        (split, key) for split, key in (("training", "fingerprint"), ("validation", "val_fingerprint")) if data.get(key)
    ]
    rows: list[tuple[str, Any]] = [
        ("data set", facts.dataset if facts.dataset != _OWN_CLASSES else "class folders of one's own"),
        ("training split", data.get("train_split")),
        ("training images", f"{int(data['samples']):,}" if data.get("samples") else None),
        ("validation split", data.get("val_split")),
        ("classes", f"{len(facts.trained.classes):,}"),
        *((f"fingerprint of the {split} split", f"`{_cell(str(data[key]))}`") for split, key in prints),
        ("read from", run.state.get("store")),
        ("decoder", run.state.get("decoder")),
        ("evaluated on", f"the central {100 * shown_as.crop_pct:g} % square at {shown_as.size} px"),
        ("resize", part[shown_as.interpolation]),
        ("mean, std", f"{_numbers(shown_as.mean)}; {_numbers(shown_as.std)}"),
    ]
    note = "A fingerprint is the SHA-256 of what the loader says of a split: its samples, their labels and their order."
    return f"## Data\n\n{_table(('', ''), _known(rows))}" + f"\n\n{note}" * bool(prints)


def _made_with(facts: _Facts) -> str:
    run, env = facts.run, facts.run.env
    card, cores = env.get("card"), env.get("cores")
    each = f"{facts.world_size} x " if facts.world_size > 1 else ""
    hardware = f"{each}{card}" if card else f"{each}CPU, {cores} cores" if cores else None
    seconds = sum(float(row.get("seconds") or 0) for row in facts.epochs)
    images_per_s = run.result.get("images_per_s") or (facts.epochs[-1].get("images_per_s") if facts.epochs else None)
    started = next((row["time"] for row in run.rows if row.get("kind") == "start" and row.get("time")), None)
    decoder = str(run.state.get("decoder"))
    packages = {
        name: version
        for name, version in (env.get("packages") or {}).items()
        if name in _PACKAGES or any(part in name for part in decoder.split("+"))
    }
    versions = {"twistnet": env.get("twistnet"), "python": env.get("python"), **packages}
    rows: list[tuple[str, Any]] = [
        ("started", str(started)[:10] if started else None),
        ("hardware", hardware),
        ("driver, CUDA", f"{env['driver']}, {env.get('cuda')}" if card and env.get("driver") else None),
        ("computed in", str(env.get("dtype") or "").removeprefix("torch.")),
        ("images a second in training", f"{float(images_per_s):,.0f}" if images_per_s else None),
        ("time in training up to these weights", _time(seconds) if seconds else None),
        ("time of the whole run", _time(float(run.result["seconds"])) if run.result.get("seconds") else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("commit of twistnet", env.get("commit")),
    ]
    return f"## Made with\n\n{_table(('', ''), _known(rows))}"


def _limits(facts: _Facts, license: str | None) -> str:
    shown_as, recipe = facts.trained.preparation, facts.recipe
    fold = f", fold {facts.fold}" if facts.fold is not None else ""
    lines = [
        f"It gives every image one of its {len(facts.trained.classes):,} classes, whatever the image shows.",
        f"All figures are of one run (seed {recipe.seed}{fold}): other seeds and splits give others.",
        "The run cut the central square out of an image first and resized that; timm's transform resizes first, so "
        "that probabilities differ a little, unless the image is square and the whole of it is shown.",
        "EXIF orientation is ignored, in training as by `twistnet predict`: turn images upright first.",
    ]
    if shown_as.flip_tta:
        lines.append("The figures are of logits averaged with the mirror image's, which timm and ONNX leave to you.")
    if shown_as.interpolation == "area":
        lines.append("The run resized by OpenCV's INTER_AREA; timm is told `box`, the nearest that Pillow has.")
    if not facts.test:
        lines.append("These weights were not tested on images that had no part in choosing them.")
    if facts.run.unfinished:
        lines.append(f"The run is {facts.run.unfinished}.")
    elif facts.stopped:
        lines.append(f"The run had come to epoch {facts.epoch} of {recipe.epochs}.")
    if facts.run.rows and any("changed" in row for row in facts.run.rows):
        lines.append("The run went on with other data or another recipe once, forced by `--force`.")
    if not license:
        lines.append("No licence is stated: ask whoever shares it.")
    made = f"This card was filled from the run's own files by twistnet {VERSION}; what they do not say is left out."
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + f"\n\n{made}"


def _is_twistnet(model: nn.Module) -> bool:
    return isinstance(model, TwistNet)


def _split(kind: str, facts: _Facts) -> str:
    return f"{kind}{facts.fold}" if facts.fold is not None else kind


def _figure(value: Any, place: int) -> str:
    if value is None:
        return ""
    return _cell(str(value)) if place == 0 else f"{int(value):,}" if place == 1 else f"{100 * float(value):.2f} %"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _time(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _known(rows: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """The rows that the run says something in."""
    return [(name, value if "`" in str(value) else _cell(str(value))) for name, value in rows if value]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text of somebody else's, on one line, that ends no cell, no code and no line."""
    return without_secrets(shown(text)).replace("|", "\\|").replace("`", "'")
