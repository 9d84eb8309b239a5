"""Maps of interactions hold what their documentation says, of the run that is best on validation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from matplotlib.figure import Figure
from PIL import Image
from sweeps import write_checkpoint, write_run
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

import loaders
from loaders import InputError
from twistnet.model import TwistNet
from twistnet.recipes import named
from twistnet.reports import maps
from twistnet.reports.collect import collect

BLOCKS = ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]


def random_model(name: str = "twistnet18", **options: object) -> TwistNet:
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=3, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(model, TwistNet)
    return model


def energy_by_loops(model: TwistNet, image: Tensor, block: str) -> np.ndarray:
    """(heads, h, w) from the block's input, a position and a pair at a time."""
    module = model.get_submodule(f"{block}.mhstci")
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(image)
        hook.remove()
        z = module.reduce(seen[0])
        twisted = module.twist(z)
    z, twisted = z[0].double().numpy(), twisted[0].double().numpy()
    heads, (height, width) = len(z) // 8, z.shape[1:]
    energy = np.zeros((heads, height, width))
    for head in range(heads):
        for y in range(height):
            for x in range(width):
                one, other = (part[8 * head : 8 * head + 8, y, x] for part in (z, twisted))
                one, other = (vector / max(np.linalg.norm(vector), 1e-12) for vector in (one, other))
                pairs = [abs(one[i] * other[j]) for i in range(8) for j in range(i, 8)]
                energy[head, y, x] = sum(pairs) / len(pairs)
    return energy


@pytest.mark.parametrize("name", ["twistnet18", "twistnet18_no_ais", "twistnet18_no_spiral"])
def test_maps_are_the_mean_absolute_products_of_pairs(name: str) -> None:
    model, image = random_model(name), torch.randn(1, 3, 64, 64)
    found = maps.interaction_maps(model, image)
    assert [each.block for each in found] == BLOCKS
    for each in found:
        assert each.energy.numpy() == pytest.approx(energy_by_loops(model, image, each.block), rel=1e-3, abs=1e-5)
        assert 0 <= each.energy.min() < each.energy.max() <= 1 / 8 + 1e-6
        assert each.spiral == (name != "twistnet18_no_spiral")


def test_heads_of_one_direction_are_averaged() -> None:
    model, image = random_model(num_heads=6), torch.randn(1, 3, 64, 64)
    first = maps.interaction_maps(model, image)[0].energy.numpy()
    by_head = energy_by_loops(model, image, "layer3.0")
    expected = [(by_head[0] + by_head[4]) / 2, (by_head[1] + by_head[5]) / 2, by_head[2], by_head[3]]
    assert first == pytest.approx(np.array(expected), rel=1e-3, abs=1e-5)


def write_weights(run: Path, model: nn.Module) -> None:
    recipe = named("demo_dtd").with_changes(interpolation="bilinear")
    write_checkpoint(run / "best.pt", samples=100, model=model.state_dict(), recipe=recipe.to_dict())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return path


def test_the_best_run_with_twist_blocks_is_shown_the_image_as_in_testing(tmp_path: Path, image: Path) -> None:
    facts = {"num_classes": 3, "recipe": "demo_dtd"}
    write_run(tmp_path / "runs" / "resnet18", top1=0.9, **facts)
    write_weights(write_run(tmp_path / "runs" / "worse", top1=0.5, model="twistnet18", seed=1, **facts), random_model())
    write_run(tmp_path / "runs" / "without", top1=0.7, model="twistnet18", seed=3, **facts)
    best = write_run(tmp_path / "runs" / "best", top1=0.6, model="twistnet18", seed=2, **facts)
    model = random_model()
    write_weights(best, model)
    shown = maps.picture(collect(tmp_path / "runs").tables, image)
    assert shown.run.folder == best
    (tmp_path / "tree" / "val" / "a").mkdir(parents=True)
    shutil.copy(image, tmp_path / "tree" / "val" / "a")
    recipe = named("demo_dtd").with_changes(interpolation="bilinear")
    options = {"train": False, "size": recipe.eval_size, "decoder": "reference", "crops": recipe.crops()}
    loader = loaders.open_loader(tmp_path / "tree", "val", 1, **options)
    (batch,) = loader.epoch(0)
    loader.close()
    assert (torch.from_numpy(shown.pixels) == batch.images[0]).all()
    seen = vision.to_dtype(batch.images.permute(0, 3, 1, 2), torch.float32, scale=True)
    seen = vision.normalize(seen, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    for each, direct in zip(shown.maps, maps.interaction_maps(model, seen), strict=True):
        assert torch.allclose(each.energy, direct.energy, atol=1e-5)


def test_the_figure_lays_the_maps_over_the_image() -> None:
    energy = torch.arange(4 * 2 * 2, dtype=torch.float32).view(4, 2, 2) / 100
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    shown = maps.Picture(
        run=None,  # type: ignore[arg-type]
        pixels=pixels,
        maps=[
            maps.Maps(block="layer3.0", energy=energy, spiral=True),
            maps.Maps(block="x", energy=energy, spiral=False),
        ],
    )
    figure = Figure(figsize=maps.maps_size(shown))
    maps.draw_maps(figure, shown)
    panels = figure.axes[:10]
    assert [axes.get_title() for axes in panels[1:5]] == ["0°", "45°", "90°", "135°"]
    assert [axes.get_ylabel() for axes in (panels[0], panels[5])] == ["layer3.0, 2 x 2", "x, 2 x 2"]
    assert [axes.get_ylabel() for axes in figure.axes[10:]] == [r"mean of $|z_i\,t_j|$"] * 2
    assert (panels[0].images[0].get_array() == pixels).all()
    for place, axes in enumerate(panels[1:5]):
        drawn = axes.images[1]
        assert drawn.get_array().shape == (64, 64)
        corners = drawn.get_array()[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.asarray(corners) == pytest.approx(energy[place].flatten().numpy()), "bilinear keeps the corners"
        assert drawn.get_clim() == (0.0, pytest.approx(0.15)), "one scale for all directions"


def test_an_image_of_one_gray_is_drawn() -> None:
    shown = maps.Picture(
        run=None,  # type: ignore[arg-type]
        pixels=np.full((64, 64, 3), 128, np.uint8),
        maps=[maps.Maps(block="layer3.0", energy=torch.zeros(1, 2, 2), spiral=False)],
    )
    figure = Figure(figsize=maps.maps_size(shown), layout="constrained")
    maps.draw_maps(figure, shown)
    figure.draw_without_rendering()
    assert figure.axes[1].get_title() == "head 1"


def test_what_cannot_be_mapped_is_said(tmp_path: Path, image: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"text.jpg cannot be read as an image"):
        maps.check_image(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError):
        maps.check_image(tmp_path / "nowhere.jpg")
    write_run(tmp_path / "runs" / "a", model="resnet18")
    write_run(tmp_path / "runs" / "unknown", model="a_model_of_tomorrow")
    with pytest.raises(InputError, match="a run of a model with twist blocks that"):
        maps.picture(collect(tmp_path / "runs").tables, image)
    run = write_run(tmp_path / "runs" / "b", model="twistnet18", seed=1)
    with pytest.raises(InputError, match=r"that has its best.pt, and there is none"):
        maps.picture(collect(tmp_path / "runs").tables, image)
    (run / "best.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"best.pt cannot be read as a checkpoint"):
        maps.picture(collect(tmp_path / "runs").tables, image)
