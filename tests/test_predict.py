"""Predictions are those of the run's evaluation, and timm's own where timm shows the same pixels."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from PIL import Image

import loaders
from loaders.augment import Augment
from loaders.listed import find_images
from twistnet.__main__ import main
from twistnet.predicting import predict
from twistnet.trained import Trained, read_export, read_run

pytest_plugins = ("training", "exports")
CPU = torch.device("cpu")


def probabilities(trained: Trained, files: list[Path], batch_size: int = 4) -> dict[Path, Any]:
    found = {}
    for group in predict(trained, files, CPU, batch_size=batch_size):
        assert not group.failures
        found.update(zip(group.files, group.probabilities, strict=True))
    return found


def timms(exported: Path, files: list[Path]) -> Any:
    """What timm's own transform and model make of them."""
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        images = torch.stack([transform(Image.open(path).convert("RGB")) for path in files])
        return model(images).softmax(dim=1).numpy()


def with_config(exported: Path, to: Path, **cfg: Any) -> Path:
    """A copy of the export that shows images in another way."""
    shutil.copytree(exported, to)
    config = json.loads((to / "config.json").read_text())
    config["pretrained_cfg"].update(cfg)
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.fixture
def odd_images(tmp_path: Path) -> list[Path]:
    """Square images of every kind: JPEG, gray, CMYK, alpha, palette, 16 bits, turned by EXIF."""
    cat = Image.fromarray(skimage.data.chelsea()[:200, 100:300])
    turned = Image.Exif()
    turned[0x0112] = 6
    wide = np.asarray(cat.convert("L")).astype(np.uint16) * 257
    folder = tmp_path / "images"
    folder.mkdir()
    cat.save(folder / "a.jpg")
    cat.convert("L").save(folder / "b.jpg")
    cat.convert("CMYK").save(folder / "c.jpg")
    alpha = cat.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))))
    alpha.save(folder / "d.png")
    cat.quantize(16).save(folder / "e.png")
    Image.fromarray(wide).save(folder / "f.png")
    cat.save(folder / "g.jpg", exif=turned)
    cat.save(folder / "h.webp")
    return sorted(folder.iterdir())


def test_square_images_shown_whole_are_timms_to_rounding(
    exported: Path, tmp_path: Path, odd_images: list[Path]
) -> None:
    """Both resize by Pillow then; what is left is the order of two float operations."""
    whole = with_config(exported, tmp_path / "whole", crop_pct=1.0)
    ours = probabilities(read_export(whole, CPU), odd_images)
    np.testing.assert_allclose(np.stack([ours[path] for path in odd_images]), timms(whole, odd_images), atol=1e-5)


def test_photographs_are_cut_first_and_resized_then(exported: Path, tree: Path, tmp_path: Path) -> None:
    """As Pillow does it by hand. timm rounds resized sides to whole pixels, and pixels outside the cut count."""
    export = with_config(exported, tmp_path / "whole", input_size=[3, 56, 56])  # 56 / 0.875 is a whole number
    files = find_images([tree / "val"])
    found = probabilities(read_export(export, CPU), files)
    ours = np.stack([found[path] for path in files])
    model = timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    images = []
    for path in files:
        image = Image.open(path).convert("RGB")
        side = round(0.875 * min(image.size))
        left, top = (image.width - side) // 2, (image.height - side) // 2
        cut = image.crop((left, top, left + side, top + side)).resize((56, 56), Image.Resampling.BILINEAR)
        images.append((np.asarray(cut) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    with torch.no_grad():
        right = model(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, right, atol=1e-5)
    theirs = timms(export, files)
    assert np.median(np.abs(ours - theirs).max(axis=1)) < 2e-3
    assert np.abs(ours - theirs).max() < 1e-2
    second, first = np.sort(ours, axis=1)[:, -2:].T
    clear = first - second > 2e-2
    assert clear.sum() >= 10
    np.testing.assert_array_equal(ours.argmax(1)[clear], theirs.argmax(1)[clear])


def test_they_are_those_of_the_runs_evaluation(tuned: Path, dtd: Path) -> None:
    """The run's loader on the test split gives the same logits, and the accuracy that the run wrote down."""
    trained = read_run(tuned).trained(CPU)
    with loaders.open_loader(dtd, "test1", 5, train=False, size=32, augment=Augment()) as loader:
        batches = list(loader.epoch(0))
        keys = [Path(loader.key(int(sample))) for batch in batches for sample in batch.ids]
    labels = torch.cat([batch.labels for batch in batches])
    with torch.no_grad():
        right = torch.cat([trained.model(batch.images).softmax(dim=1) for batch in batches])
    found = probabilities(trained, keys, batch_size=5)
    ours = torch.from_numpy(np.stack([found[key] for key in keys]))
    assert torch.equal(ours, right)
    accuracy = float((ours.argmax(1) == labels).double().mean())
    assert accuracy == json.loads((tuned / "result.json").read_text())["test_top1"]


def test_mirror_images_count_where_they_did_in_the_run(exported: Path, tmp_path: Path, odd_images: list[Path]) -> None:
    config = json.loads((exported / "config.json").read_text())
    both = shutil.copytree(exported, tmp_path / "both")
    config["twistnet"]["flip_tta"] = True
    (both / "config.json").write_text(json.dumps(config))
    plain = read_export(exported, CPU)
    mirrored = tmp_path / "mirrored.png"
    cut = Image.open(odd_images[0]).convert("RGB")
    cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    one = tmp_path / "one.png"
    cut.save(one)
    found = probabilities(plain, [one, mirrored])
    logits = (np.log(found[one]) + np.log(found[mirrored])) / 2  # softmax forgets what all classes have in common
    right = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities(read_export(both, CPU), [one])[one], right, atol=1e-3)


@pytest.mark.parametrize("amp", [True, False, None])
def test_the_precision_is_the_runs(exported: Path, tmp_path: Path, odd_images: list[Path], amp: bool | None) -> None:
    config = json.loads((exported / "config.json").read_text())
    own = shutil.copytree(exported, tmp_path / "own")
    config["twistnet"]["amp"] = amp
    config["pretrained_cfg"]["crop_pct"] = 1.0
    (own / "config.json").write_text(json.dumps(config))
    model = timm.create_model(f"local-dir:{own}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in odd_images])
    with torch.no_grad():
        exact = model(images).softmax(dim=1).numpy()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images.bfloat16()).float().softmax(dim=1).numpy()
    found = probabilities(read_export(own, CPU), odd_images)
    ours = np.stack([found[path] for path in odd_images])
    to_exact, to_rounded = np.abs(ours - exact).max(), np.abs(ours - rounded).max()
    assert np.abs(exact - rounded).max() > 1e-4, "the two can be told apart"
    assert to_rounded < to_exact if amp else to_exact < 1e-5


def test_the_command_names_the_most_probable_classes(
    exported: Path, tuned: Path, odd_images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = odd_images[0].parent
    ours = probabilities(read_export(exported, CPU), odd_images)
    assert main(["predict", str(folder), f"--model_dir={exported}", "--device=cpu", "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == [str(path) for path in odd_images]
    names = ["astronaut", "cat", "coffee"]
    for place, path in enumerate(odd_images):
        expected = [f"{names[label]} {ours[path][label]:.4f}" for label in np.argsort(-ours[path])[:2]]
        assert [" ".join(line.split()) for line in lines[3 * place + 1 : 3 * place + 3]] == expected
    assert main(["predict", str(folder), f"--run_dir={tuned}", "--device=cpu", f"--csv={tmp_path / 'o.csv'}"]) == 0
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(path) for path in odd_images]
    for row, path in zip(rows, odd_images, strict=True):
        assert row["class_1"] == names[int(ours[path].argmax())]
        assert float(row["probability_1"]) == pytest.approx(ours[path].max(), abs=1e-6)
        assert sum(float(row[f"probability_{rank}"]) for rank in (1, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_bad_images_are_named_and_the_rest_is_kept(
    exported: Path, odd_images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = odd_images[0].parent
    (folder / "aa.jpg").write_text("no image")
    (folder / "bb.jpg").write_bytes(odd_images[0].read_bytes()[:1500])
    (folder / "cc.png").write_bytes(b"")
    (folder / "dd.jpg").symlink_to("nowhere")
    for batch_size in ("1", "3", "64"):
        arguments = ["predict", str(folder), f"--model_dir={exported}", "--device=cpu", "--top=1"]
        assert main([*arguments, f"--batch_size={batch_size}"]) == 1
        said = capsys.readouterr()
        assert said.out.splitlines()[::2] == [str(path) for path in odd_images]
        for name in ("aa.jpg", "bb.jpg", "cc.png", "dd.jpg"):
            assert f"{folder / name} cannot be decoded (" in said.err
        assert "4 of 12 images were left out." in said.err
    assert main(["predict", str(folder / "aa.jpg"), f"--model_dir={exported}", "--device=cpu"]) == 1
    assert capsys.readouterr().out == ""


def test_a_probes_predictions_are_those_of_its_test(
    probed: Path, dtd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [dtd / "images" / line for line in (dtd / "labels" / "test1.txt").read_text().splitlines()]
    out = tmp_path / "o.csv"
    assert main(["predict", *map(str, listed), f"--run_dir={probed}", "--device=cpu", "--top=1", f"--csv={out}"]) == 0
    assert f"{out}: 15 images.\n" in capsys.readouterr().out
    with out.open(newline="") as file:
        right = [row["class_1"] == Path(row["image"]).parent.name for row in csv.DictReader(file)]
    assert sum(right) / len(right) == json.loads((probed / "result.json").read_text())["test_top1"]


def test_only_predictions_are_overwritten(
    exported: Path, odd_images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.csv"
    arguments = ["predict", str(odd_images[0]), f"--model_dir={exported}", "--device=cpu", f"--csv={out}"]
    for text in ("# A page\n", "image,label\na.jpg,cat\n", "imag"):
        out.write_text(text)
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert f"--csv {out} is there already and no file of predictions" in error
        assert error.count("\n") == 1
        assert out.read_text() == text
    out.unlink()
    for _ in range(2):  # those of before are replaced
        assert main(arguments) == 0
        assert f"{out}: 1 image.\n" in capsys.readouterr().out
    assert main([*arguments, "--top=1"]) == 0
    assert out.read_text().startswith("image,class_1,probability_1\n")
    out.unlink()
    out.mkdir()
    assert main(arguments) == 1
    assert "is there already and no file of predictions" in capsys.readouterr().err


def test_folders_are_searched_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/z/1.JPG", "b/a.png", "b/.hidden/x.jpg", "b/.x.jpg", "b/notes.txt", "b/z/0.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    (tmp_path / "odd.name").touch()
    found = find_images([tmp_path / "odd.name", tmp_path / "b"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["odd.name", "b/a.png", "b/z/0.webp", "b/z/1.JPG"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{images}"], "the model is missing or given twice: name --model_dir, an export, or --run_dir, a run"),
        (["{images}", "--model_dir=a", "--run_dir=b"], "the model is missing or given twice"),
        (["nowhere.jpg", "--model_dir={export}"], "nowhere.jpg does not exist: name image files, or folders of them"),
        (["{empty}", "--model_dir={export}"], "holds no images: files ending in .jpg"),
        (["{images}", "--model_dir={export}", "--top=0"], "--top 0 is too small: take at least 1"),
        (["{images}", "--model_dir={export}", "--batch_size=0"], "batch_size 0 is too small"),
        (["{images}", "--model_dir={export}", "--csv=no/o.csv"], "--csv no/o.csv is in a folder that does not exist"),
        (["{images}", "--model_dir={empty}"], "holds no config.json: name the --out of twistnet export"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    exported: Path,
    odd_images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"images": odd_images[0].parent, "export": exported, "empty": tmp_path / "empty"}
    assert main(["predict", "--device=cpu", *(flag.format(**places) for flag in flags)]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


Config = dict[str, Any]


def cfg(**values: Any) -> Callable[[Config], object]:
    return lambda config: config["pretrained_cfg"].update(values)


def own(**values: Any) -> Callable[[Config], object]:
    return lambda config: config["twistnet"].update(values)


def outer(**values: Any) -> Callable[[Config], object]:
    return lambda config: config.update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outer(architecture="os.system"), "names the architecture 'os.system', which timm does not know"),
        (outer(architecture="hf-hub:somebody/model"), "names the architecture 'hf-hub:somebody/model', which timm"),
        (outer(architecture=["test_resnet"]), "which timm does not know"),
        (outer(architecture="test_vit"), "model.safetensors holds no weights of test_vit"),
        (outer(label_names={"0": "cat"}), "label_names is no list of names"),
        (outer(label_names=["cat", 1, None]), "label_names is no list of names"),
        (outer(label_names=["cat", "dog"]), "has 2 label_names and num_classes 3"),
        (outer(num_classes=10**12), "has 3 label_names and num_classes 1000000000000"),
        (outer(num_classes=2, label_names=["a", "b"]), "model.safetensors holds no weights of test_resnet"),
        (outer(pretrained_cfg=[]), "is not of twistnet export"),
        (outer(twistnet=True), "is not of twistnet export"),
        (own(format=9), "has format 9, this version reads 1"),
        (own(flip_tta="yes"), "flip_tta 'yes' is impossible"),
        (own(interpolation="nearest"), "interpolation 'nearest' is unknown"),
        (own(amp=1), "amp 1 is impossible"),
        (own(decoder=None), "decoder None is impossible"),
        (cfg(input_size=[3, 10**6, 10**6]), "an image size of 1000000 pixels is impossible: 1 to 4096"),
        (cfg(input_size=[1, 32, 32]), "is not [3, size, size]"),
        (cfg(input_size="32"), "is not [3, size, size]"),
        (cfg(crop_pct=0.0), "crop_pct 0.0 is impossible"),
        (cfg(crop_pct=None), "crop_pct None is impossible"),
        (cfg(mean=[0.5, 0.5]), "mean [0.5, 0.5] is not three numbers"),
        (cfg(mean=[10**400, 0, 0]), "config.json: "),
        (cfg(std=[0, 1, 1]), "give three positive numbers"),
        (cfg(std=[float("nan"), 1, 1]), "give three positive numbers"),
    ],
)
def test_a_hostile_config_is_refused_in_a_sentence(
    exported: Path,
    odd_images: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Config], object],
    message: str,
) -> None:
    folder = shutil.copytree(exported, tmp_path / "hostile")
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["predict", str(odd_images[0]), f"--model_dir={folder}", "--device=cpu"]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


class Hostile:
    """Unpickles by making a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


def test_weights_are_read_from_safetensors_alone(
    exported: Path, odd_images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exported, tmp_path / "hostile")
    (folder / "model.safetensors").unlink()
    state = {**safetensors.torch.load_file(exported / "model.safetensors"), "x": Hostile(tmp_path / "executed")}
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save(state, folder / name)
    for damage, message in (
        (lambda: None, "holds no model.safetensors, the only form of weights that is read"),
        (lambda: torch.save(state, folder / "model.safetensors"), "model.safetensors holds no weights of test_resnet"),
        (lambda: (folder / "config.json").write_text("[" * 100_000), "config.json is no JSON"),
        (lambda: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    ):
        damage()
        assert main(["predict", str(odd_images[0]), f"--model_dir={folder}", "--device=cpu"]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
