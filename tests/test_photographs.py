"""The demo's sets: their layout, what they share (no pixel), and what a second call may and may not touch."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import DTD, ImageFolder

from convert.contact_sheet import contact_sheet
from convert.photographs import MANIFEST, NUM_FOLDS, SIDES, SPLITS, SUBJECTS, TEXTURES, DemoSets, make_demo_sets
from convert.photographs import demo as photographs
from loaders.errors import InputError

TRAIN, VAL, TEXTURE = 3, 2, 12
Entry = dict[str, Any]


def make(out: Path, seed: int = 0, train_per_class: int = TRAIN) -> DemoSets:
    return make_demo_sets(
        out,
        seed=seed,
        train_per_class=train_per_class,
        val_per_class=VAL,
        texture_per_class=TEXTURE,
        progress=False,
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> DemoSets:
    return make(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def images(sets: DemoSets) -> dict[str, Entry]:
    found: dict[str, Entry] = json.loads(sets.manifest.read_text())["images"]
    return found


@pytest.fixture
def copy(sets: DemoSets, tmp_path: Path) -> Path:
    """A folder that the sets were made in, to spoil."""
    return Path(shutil.copytree(sets.manifest.parent, tmp_path / "copy"))


def files_below(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def digests(out: Path) -> dict[str, str]:
    return {path: hashlib.sha256((out / path).read_bytes()).hexdigest() for path in files_below(out)}


def labels(sets: DemoSets, split: str, fold: int) -> list[str]:
    return (sets.dtd / "labels" / f"{split}{fold}.txt").read_text().splitlines()


def share_a_pixel(one: Entry, other: Entry) -> bool:
    if one["photograph"] != other["photograph"]:
        return False
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one["box"], other["box"]
    return max(left, left2) < min(right, right2) and max(top, top2) < min(bottom, bottom2)


def photograph_file(name: str) -> Path:
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / rest


def test_layout(sets: DemoSets) -> None:
    expected = {MANIFEST, "dtd/labels/labels_joint_anno.txt"}
    expected |= {f"dtd/labels/{split}{fold}.txt" for split in SPLITS for fold in range(1, 11)}
    for subject in SUBJECTS:
        folder = f"{subject.name}/{subject.name}"
        expected |= {f"photographs/train/{folder}_{number:04d}.JPEG" for number in range(1, TRAIN + 1)}
        expected |= {f"photographs/val/{folder}_val_{number:04d}.JPEG" for number in range(1, VAL + 1)}
    for texture in TEXTURES:
        expected |= {f"dtd/images/{texture.name}/{texture.name}_{number:04d}.jpg" for number in range(1, TEXTURE + 1)}
    out = sets.manifest.parent
    assert files_below(out) == expected
    assert (sets.photographs, sets.dtd) == (out / "photographs", out / "dtd")


def test_counts(sets: DemoSets, images: dict[str, Entry]) -> None:
    assert (sets.num_subjects, sets.num_train, sets.num_val) == (
        len(SUBJECTS),
        len(SUBJECTS) * TRAIN,
        len(SUBJECTS) * VAL,
    )
    assert (sets.num_textures, sets.num_texture_images) == (len(TEXTURES), len(TEXTURES) * TEXTURE)
    assert len(images) == sets.num_train + sets.num_val + sets.num_texture_images
    assert sets.num_bytes == sum((sets.manifest.parent / path).stat().st_size for path in images)
    assert len(SUBJECTS) >= 12
    assert len(TEXTURES) >= 10


def test_every_image_is_an_rgb_jpeg(sets: DemoSets, images: dict[str, Entry]) -> None:
    for path in images:
        with Image.open(sets.manifest.parent / path) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB"), path
            assert all(SIDES[0] <= side <= SIDES[1] for side in image.size), (path, image.size)
            assert np.asarray(image).std() > 1, f"{path} is of one colour"


def test_boxes_are_where_the_images_come_from(sets: DemoSets, images: dict[str, Entry]) -> None:
    for path, entry in list(images.items())[::7]:
        with Image.open(photograph_file(entry["photograph"])) as opened:
            left, top, right, bottom = entry["box"]
            assert 0 <= left < right <= opened.width, path
            assert 0 <= top < bottom <= opened.height, path
            source = opened.convert("RGB").crop(entry["box"]).convert("L").resize((24, 24), Image.Resampling.BOX)
        with Image.open(sets.manifest.parent / path) as image:
            written = image.convert("L").resize((24, 24), Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(source).ravel(), np.asarray(written).ravel())[0, 1] > 0.9, path


def test_train_and_val_share_no_pixel(images: dict[str, Entry]) -> None:
    train = [entry for path, entry in images.items() if path.startswith("photographs/train/")]
    val = [entry for path, entry in images.items() if path.startswith("photographs/val/")]
    assert len(train) == len(SUBJECTS) * TRAIN
    assert not any(share_a_pixel(one, other) for one, other in itertools.product(train, val))


def test_parts_of_subjects_share_no_pixel() -> None:
    parts = [{"photograph": s.photograph, "box": box} for s in SUBJECTS for box in (s.train, s.val)]
    assert not any(share_a_pixel(one, other) for one, other in itertools.combinations(parts, 2))


@pytest.mark.parametrize("fold", range(1, NUM_FOLDS + 1))
def test_splits_of_a_fold(sets: DemoSets, images: dict[str, Entry], fold: int) -> None:
    lines = {split: labels(sets, split, fold) for split in SPLITS}
    together = [line for split in SPLITS for line in lines[split]]
    assert len(set(together)) == len(together) == sets.num_texture_images
    for split in SPLITS:
        for texture in TEXTURES:
            assert sum(line.startswith(f"{texture.name}/") for line in lines[split]) == TEXTURE // 3
    entries = {split: [images[f"dtd/images/{line}"] for line in lines[split]] for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not any(share_a_pixel(*pair) for pair in itertools.product(entries[one], entries[other])), (one, other)


def test_folds_differ(sets: DemoSets) -> None:
    assert len({tuple(labels(sets, "test", fold)) for fold in range(1, NUM_FOLDS + 1)}) == NUM_FOLDS


def test_the_two_sets_share_no_photograph(images: dict[str, Entry]) -> None:
    used = {
        top: {entry["photograph"] for path, entry in images.items() if path.startswith(f"{top}/")}
        for top in ("photographs", "dtd")
    }
    assert used["photographs"]
    assert used["dtd"]
    assert not used["photographs"] & used["dtd"]


def test_torchvision_reads_both(sets: DemoSets, tmp_path: Path) -> None:
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "dtd").symlink_to(sets.dtd, target_is_directory=True)
    for fold, split in itertools.product((1, NUM_FOLDS), SPLITS):
        read = DTD(tmp_path, split=split, partition=fold, download=False)
        assert len(read) == sets.num_texture_images // 3
        assert read.classes == sorted(texture.name for texture in TEXTURES)
        image, label = read[len(read) - 1]
        assert image.mode == "RGB"
        assert read.classes[label] == labels(sets, split, fold)[-1].split("/")[0]
    joint = (sets.dtd / "labels" / "labels_joint_anno.txt").read_text().splitlines()
    assert [line.split()[0].split("/")[0] for line in joint] == [line.split()[1] for line in joint]

    train, val = ImageFolder(str(sets.photographs / "train")), ImageFolder(str(sets.photographs / "val"))
    assert (len(train), len(val)) == (sets.num_train, sets.num_val)
    assert train.classes == val.classes == sorted(subject.name for subject in SUBJECTS)


def test_same_seed_same_bytes(sets: DemoSets, tmp_path: Path) -> None:
    make(tmp_path)
    assert digests(tmp_path) == digests(sets.manifest.parent)


def test_another_seed_differs(sets: DemoSets, images: dict[str, Entry], tmp_path: Path) -> None:
    other = make(tmp_path, seed=1)
    other_images = json.loads(other.manifest.read_text())["images"]
    same = [path for path in images if images[path]["box"] == other_images[path]["box"]]
    assert len(same) < len(images) / 10
    assert labels(sets, "train", 1) != labels(other, "train", 1)


def test_more_images_leave_the_others_as_they_are(sets: DemoSets, tmp_path: Path) -> None:
    make(tmp_path, train_per_class=TRAIN + 1)
    old, new = digests(sets.manifest.parent), digests(tmp_path)
    assert all(new[path] == old[path] for path in old if path != MANIFEST)


def test_complete_sets_are_reused(sets: DemoSets) -> None:
    out = sets.manifest.parent
    before = {path: (out / path).stat().st_mtime_ns for path in files_below(out)}
    again = make(out)
    assert again.reused
    assert not sets.reused
    assert {path: (out / path).stat().st_mtime_ns for path in files_below(out)} == before
    assert again.num_bytes == sets.num_bytes


def test_half_written_is_made_anew(sets: DemoSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, num_saved = Image.Image.save, itertools.count(1)

    def fail_later(image: Image.Image, path: Path, *args: Any, **kwargs: Any) -> None:
        if next(num_saved) > 40:
            path.write_bytes(b"half an imag")
            raise OSError(28, "No space left on device")
        save(image, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail_later)
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path)
    assert len(files_below(tmp_path)) > 40
    assert not (tmp_path / MANIFEST).exists()
    assert not make(tmp_path).reused
    assert digests(tmp_path) == digests(sets.manifest.parent)


def test_a_lost_image_is_made_anew(sets: DemoSets, copy: Path) -> None:
    (copy / "photographs" / "val" / "cat" / "cat_val_0001.JPEG").unlink()
    assert not make(copy).reused
    assert digests(copy) == digests(sets.manifest.parent)


def test_other_arguments_replace_what_was_made_and_nothing_else(sets: DemoSets, copy: Path) -> None:
    neighbour = copy / "runs" / "log.jsonl"
    neighbour.parent.mkdir()
    neighbour.write_text("{}")
    assert not make(copy, train_per_class=TRAIN - 1).reused
    lost = {f"photographs/train/{subject.name}/{subject.name}_{TRAIN:04d}.JPEG" for subject in SUBJECTS}
    assert files_below(copy) == (files_below(sets.manifest.parent) - lost) | {"runs/log.jsonl"}


@pytest.mark.parametrize("after_a_call", [False, True])
@pytest.mark.parametrize("name", ["photographs/train/cat/mine.JPEG", "dtd/images/banded/banded_0001.jpg"])
def test_foreign_files_are_refused(copy: Path, name: str, after_a_call: bool) -> None:
    if not after_a_call:
        (copy / MANIFEST).unlink()
        shutil.rmtree(copy / "photographs")
        shutil.rmtree(copy / "dtd")
    foreign = copy / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_bytes(b"mine")
    before = digests(copy)
    with pytest.raises(InputError, match=r"is in the way.*move it away") as caught:
        make(copy, seed=1)
    assert str(foreign) in str(caught.value)
    assert digests(copy) == before


def test_sets_without_their_manifest_are_refused(copy: Path) -> None:
    (copy / MANIFEST).unlink()
    before = digests(copy)
    with pytest.raises(InputError, match="is in the way"):
        make(copy)
    assert digests(copy) == before


def test_a_link_is_not_followed(sets: DemoSets, copy: Path) -> None:
    shutil.rmtree(copy / "photographs")
    (copy / "photographs").symlink_to(sets.photographs, target_is_directory=True)
    before = digests(sets.manifest.parent)
    with pytest.raises(InputError, match="is in the way"):
        make(copy, seed=1)
    assert digests(sets.manifest.parent) == before


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"images": 3}', '{"format": 99, "images": {}}'])
def test_another_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="is not a manifest of the demo's sets"):
        make(tmp_path)
    assert (tmp_path / MANIFEST).read_text() == text


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file: name a folder"):
        make(tmp_path / "out")


@pytest.mark.parametrize(("module", "package"), [("skimage", "scikit-image"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{package} is not installed.*pip install 'twistnet\[demo\]'"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_photograph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = SUBJECTS[0]._replace(photograph="skimage/data/absent.png")
    monkeypatch.setattr(photographs, "SUBJECTS", (absent, *SUBJECTS[1:]))
    with pytest.raises(InputError, match=r"absent\.png is missing from the installed scikit-image"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train_per_class": 0}, "train_per_class is 0"),
        ({"val_per_class": -1}, "val_per_class is -1"),
        ({"texture_per_class": 0}, "texture_per_class is 0"),
        ({"texture_per_class": 25}, "texture_per_class is 25.*multiple of 12"),
    ],
)
def test_counts_are_checked(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_demo_sets(tmp_path / "out", progress=False, **counts)
    assert not (tmp_path / "out").exists()


def test_contact_sheet(sets: DemoSets, tmp_path: Path) -> None:
    path = contact_sheet(sets.dtd / "images", tmp_path / "sheets" / "dtd.png", per_class=4, side=32)
    with Image.open(path) as sheet:
        assert sheet.height == len(TEXTURES) * 32
        assert np.asarray(sheet.crop((sheet.width - 32, 0, sheet.width, sheet.height))).std() > 1
    assert [entry.name for entry in path.parent.iterdir()] == ["dtd.png"]


def test_contact_sheet_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no JPEG or PNG file"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
