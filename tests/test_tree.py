"""The tree store: what it lists, and what it refuses, against torchvision's ImageFolder and DTD."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from loaders import InputError, SampleError, open_store


def test_lists_what_torchvisions_image_folder_lists(tree: Path) -> None:
    store, expected = open_store(tree, "train"), ImageFolder(str(tree / "train"))
    assert list(store.classes) == expected.classes
    assert [(store.key(i), int(store.labels[i])) for i in range(len(store))] == expected.samples
    assert store.read(5) == Path(expected.samples[5][0]).read_bytes()


def test_labels_do_not_shift_where_a_class_has_no_validation_images(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    shutil.rmtree(copy / "val" / "astronaut")
    store = open_store(copy, "val")
    labels = {Path(store.key(i)).parent.name: int(store.labels[i]) for i in range(len(store))}
    assert labels == {"cat": 1, "coffee": 2}


def test_nested_images_and_stray_files(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    (copy / "train" / "cat" / "images").mkdir()  # as Tiny-ImageNet has them
    (copy / "train" / "cat" / "cat_0.JPEG").rename(copy / "train" / "cat" / "images" / "cat_0.JPEG")
    for stray in (".directory", "notes.txt", "._cat_1.JPEG"):
        (copy / "train" / "cat" / stray).write_text("not an image")
    store = open_store(copy, "train")
    assert len(store) == 51
    assert any(store.key(i).endswith("cat/images/cat_0.JPEG") for i in range(len(store)))


def dtd(root: Path, tree: Path) -> Path:
    shutil.copytree(tree / "train", root / "images")
    (root / "labels").mkdir()
    (root / "images" / "cat" / ".directory").write_text("stray")
    for split, indices in {"train1": (0, 1), "val1": (2,), "test1": (3, 4)}.items():
        lines = [f"{name}/{name}_{i}.JPEG" for name in ("astronaut", "cat", "coffee") for i in indices]
        (root / "labels" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("nested", ["", "dtd"])
def test_dtd_follows_its_lists(tree: Path, tmp_path: Path, nested: str) -> None:
    dtd(tmp_path / "set" / nested, tree)
    store = open_store(tmp_path / "set", "test1")
    assert list(store.classes) == ["astronaut", "cat", "coffee"]
    assert list(store.labels) == [0, 0, 1, 1, 2, 2]
    assert [Path(store.key(i)).name for i in (0, 5)] == ["astronaut_3.JPEG", "coffee_4.JPEG"]


def test_dtd_refuses_a_missing_fold_and_a_path_outside(tree: Path, tmp_path: Path) -> None:
    root = dtd(tmp_path / "set", tree)
    with pytest.raises(InputError, match="train11"):
        open_store(root, "train11")
    (root / "labels" / "val1.txt").write_text("../../secret.jpg\n")
    with pytest.raises(InputError, match="secret"):
        open_store(root, "val1")


def test_refusals_say_what_to_do(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    for path, split, message in [
        (tmp_path / "nowhere", "train", "does not exist"),
        (copy, "test", "has no folder test/"),
    ]:
        with pytest.raises(InputError, match=message):
            open_store(path, split)
    (copy / "val" / "dog").mkdir()
    with pytest.raises(InputError, match="dog has no counterpart"):
        open_store(copy, "val")
    (copy / "train" / "dog").mkdir()
    with pytest.raises(InputError, match="dog holds no images"):
        open_store(copy, "train")
    flat = tmp_path / "flat"
    shutil.copytree(tree / "train", flat / "train")
    (flat / "val").mkdir()
    (flat / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(InputError, match="no class folders"):
        open_store(flat, "val")


def test_a_list_that_is_no_text_is_named(tree: Path, tmp_path: Path) -> None:
    root = dtd(tmp_path / "set", tree)
    (root / "labels" / "train1.txt").write_bytes(b"cat/caf\xe9.jpg")
    with pytest.raises(InputError, match=r"train1\.txt is no UTF-8 text"):
        open_store(root, "train1")


def test_a_fingerprint_is_that_of_samples_and_order(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    first = open_store(tree, "train").fingerprint
    assert open_store(copy, "train").fingerprint == first, "wherever it lies"
    (copy / "train" / "cat" / "cat_0.JPEG").rename(copy / "train" / "coffee" / "cat_0.JPEG")
    moved = open_store(copy, "train").fingerprint
    (copy / "train" / "coffee" / "cat_0.JPEG").rename(copy / "train" / "coffee" / "coffee_99.JPEG")
    prints = {first, moved, open_store(copy, "train").fingerprint, open_store(tree, "val").fingerprint}
    assert len(prints) == 4


def test_a_file_that_goes_away_is_named(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    store = open_store(copy, "train")
    Path(store.key(3)).unlink()
    with pytest.raises(SampleError, match=r"astronaut_11\.JPEG"):
        store.read(3)


def test_pipes_are_no_images_and_broken_links_are_named(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    os.mkfifo(copy / "train" / "cat" / "pipe.jpg")
    (copy / "train" / "cat" / "zz.jpg").symlink_to(tmp_path / "gone.jpg")
    store = open_store(copy, "train")
    assert len(store) == 52
    (link,) = [sample for sample in range(52) if store.key(sample).endswith("zz.jpg")]
    with pytest.raises(SampleError, match=r"zz\.jpg"):
        store.read(link)


def test_a_folder_that_links_to_itself_is_named(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy")
    (copy / "train" / "cat" / "again").symlink_to(copy / "train" / "cat")
    with pytest.raises(InputError, match="cat/again links to a folder that holds it"):
        open_store(copy, "train")


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{tmp_path / 'file'} is a file, no folder: give --data_dir"):
        open_store(tmp_path / "file", "train")
    with pytest.raises(InputError, match="none does not exist: check --data_dir"):
        open_store(tmp_path / "none", "train")
