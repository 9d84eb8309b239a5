"""A converted set holds what its source does, and others read it: tarfile, the webdataset library, DALI and FFCV."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import ilsvrc
import numpy as np
import pytest
import skimage.data
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def
from PIL import Image
from training import FOLDS, finetune

from convert.shard import tar_header
from loaders import InputError, open_loader, open_store
from twistnet.__main__ import main

DATA = ilsvrc.make_ilsvrc(train_per_class=9, num_val=20)
CLASSES = tuple(sorted(ilsvrc.BY_ID))


def convert(source: Path, out: Path, *flags: str) -> Path:
    assert main(["convert", f"--data_dir={source}", f"--out={out}", "--min_shards=3", "--workers=2", *flags]) == 0
    return out


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name), DATA) for name, write in ilsvrc.LAYOUTS.items()}


@pytest.fixture(scope="module")
def converted(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(sources["archives"], tmp_path_factory.mktemp("converted") / "set")


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.mark.parametrize("layout", sorted(set(ilsvrc.LAYOUTS) - {"archives"}))
def test_every_layout_gives_the_same_set(
    layout: str, sources: dict[str, Path], converted: Path, tmp_path: Path
) -> None:
    other = convert(sources[layout], tmp_path / "set")
    found, expected = manifest_of(other), manifest_of(converted)
    for split in ("train", "val"):
        assert found["splits"][split].pop("source") == layout
        assert expected["splits"][split].pop("source") == "archives"
    assert found == expected
    for path in converted.iterdir():
        if path.name != "manifest.json":
            assert (other / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("split", ["train", "val"])
def test_tarfile_finds_every_image_once_under_its_label(converted: Path, split: str) -> None:
    found: dict[str, tuple[bytes, int]] = {}
    order = []
    for name in sorted(path.name for path in converted.glob(f"{split}-*.tar")):
        with tarfile.open(converted / name) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for member, data in members.items():
            if member.endswith(".jpg"):
                key = member.removesuffix(".jpg")
                found[key] = (data, int(members[f"{key}.cls"]))
                order.append(key)
    expected = DATA.images(split)
    assert {key: data for key, (data, _) in found.items()} == expected
    assert all(CLASSES[label] == key.split("/")[0] for key, (_, label) in found.items())
    assert order != sorted(order), "shuffled over all classes"
    store = open_store(converted, split)
    assert [store.key(i).partition(":")[2] for i in range(len(store))] == [f"{key}.jpg" for key in order]
    assert [bytes(store.read(i)) for i in range(len(store))] == [found[key][0] for key in order]
    assert [CLASSES[label] for label in store.labels] == [key.split("/")[0] for key in order]


@given(
    name=st.text(st.characters(min_codepoint=1, codec="utf-8"), min_size=1, max_size=130),
    size=st.integers(0, 8**11 - 1) | st.sampled_from([8**11 - 1, 8**11, 8**12]),
)
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert tar_header(name, size) == info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")


def test_the_webdataset_library_reads_the_same(converted: Path) -> None:
    shards = sorted(map(str, converted.glob("train-*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    store = open_store(converted, "train")
    assert len(samples) == len(store)
    for sample, ours in zip(samples, range(len(store)), strict=True):
        assert f"{sample['__key__']}.jpg" == store.key(ours).partition(":")[2]
        assert sample["jpg"] == bytes(store.read(ours))
        assert int(sample["cls"]) == store.labels[ours]


def test_dali_reads_the_same_with_our_index(converted: Path) -> None:
    shards = sorted(map(str, converted.glob("train-*.tar")))
    store = open_store(converted, "train")

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> Any:
        image, label = fn.readers.webdataset(
            paths=shards,
            index_paths=[shard.replace(".tar", ".idx") for shard in shards],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
        )
        return image, label

    pipeline = read()
    pipeline.build()
    for sample in range(len(store)):
        image, label = (np.asarray(part[0]).tobytes() for part in pipeline.run())
        assert image == bytes(store.read(sample))
        assert int(label) == store.labels[sample]


def test_dalis_own_tool_writes_the_same_index(converted: Path, tmp_path: Path) -> None:
    for shard in sorted(converted.glob("train-*.tar")):
        theirs = tmp_path / "theirs.idx"
        subprocess.run([sys.executable, "-m", "wds2idx", str(shard), str(theirs)], check=True, capture_output=True)
        assert shard.with_suffix(".idx").read_text() == theirs.read_text()


FFCV_READS = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
for file in sys.argv[1:]:
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(file, batch_size=5, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines,
                    os_cache=True, drop_last=False)
    parts = [[np.array(part) for part in batch] for batch in loader]
    np.savez(file + ".npz", image=np.concatenate([p[0] for p in parts]), label=np.concatenate([p[1] for p in parts]))
"""


@pytest.fixture(scope="module")
def betons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images of one size, which FFCV's plain decoder needs, as JPEGs, as pixels and as both; read by FFCV's Loader."""
    pytest.importorskip("ffcv", reason="needs FFCV")
    root = tmp_path_factory.mktemp("betons")
    pixels = skimage.data.astronaut()
    for place in range(14):
        folder = root / "tree" / "train" / ("left" if place % 2 else "right")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[20 * place :, 20 * place :][:64, :96]).save(folder / f"{place}.jpg", quality=92)
    sets = {}
    for mode in ("jpg", "raw", "proportion"):
        flags = ("--formats=shards,beton" if mode == "jpg" else "--formats=beton", f"--beton={mode}")
        sets[mode] = convert(root / "tree", root / mode, *flags)
    files = [str(folder / "train.beton") for folder in sets.values()]
    done = subprocess.run([sys.executable, "-c", FFCV_READS, *files], capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    return sets


def test_ffcvs_own_loader_reads_the_same(betons: dict[str, Path]) -> None:
    shards = open_store(betons["jpg"], "train")
    expected = []
    for sample in range(len(shards)):
        with Image.open(io.BytesIO(shards.read(sample))) as image:
            expected.append(np.asarray(image.convert("RGB")))
    for mode, folder in betons.items():
        found = np.load(folder / "train.beton.npz")
        assert found["label"].ravel().tolist() == shards.labels.tolist(), mode
        difference = np.abs(found["image"].astype(int) - np.stack(expected))
        assert difference.max() == 0 if mode == "raw" else difference.mean() < 2, mode


def test_a_beton_holds_jpegs_untouched_or_pixels(betons: dict[str, Path]) -> None:
    shards = open_store(betons["jpg"], "train")
    kinds = {}
    for mode, folder in betons.items():
        names = {path.suffix for path in folder.iterdir() if path.suffix != ".npz"}
        assert names == {".beton", ".npy", ".json", ".jsonl"} | ({".tar", ".idx"} if mode == "jpg" else set())
        store = open_store(folder / "train.beton" if mode == "jpg" else folder, "train")
        read = [store.read(sample) for sample in range(len(store))]
        kinds[mode] = [isinstance(data, np.ndarray) for data in read]
        for sample, data in enumerate(read):
            if not isinstance(data, np.ndarray):
                assert bytes(data) == bytes(shards.read(sample))
    assert not any(kinds["jpg"])
    assert all(kinds["raw"])
    assert 0 < sum(kinds["proportion"]) < len(shards)


def test_training_takes_a_converted_set_as_it_takes_the_tree(
    sources: dict[str, Path], converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of a batch are the same images, decoded and cropped alike, wherever they lie in the order."""
    tree, shards = (open_loader(path, "val", 10, train=False, size=32) for path in (sources["tree"], converted))
    by_key: list[dict[str, torch.Tensor]] = []
    for path, loader in ((sources["tree"], tree), (converted, shards)):
        store = open_store(path, "val")
        pixels = {
            Path(store.key(int(sample)).rpartition(":")[2]).stem: image
            for batch in loader.epoch(0)
            for sample, image, valid in zip(batch.ids, batch.images, batch.valid, strict=True)
            if valid
        }
        by_key.append(pixels)
        loader.close()
    assert by_key[0].keys() == by_key[1].keys()
    assert all(torch.equal(image, by_key[1][key]) for key, image in by_key[0].items())
    monkeypatch.chdir(tmp_path)
    tiny = ("--device=cpu", "--workers=1", "--size=32", "--batch_size=16", "--epochs=1", "--model=test_resnet")
    assert main(["pretrain", f"--data_dir={converted}", "--recipe=demo", *tiny]) == 0


def test_dtd_keeps_its_folds(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "dtd"
    (root / "labels").mkdir(parents=True)
    (root / "images").symlink_to(tree / "train")
    for split, indices in FOLDS.items():
        lines = [f"{name}/{name}_{index}.JPEG" for name in ("astronaut", "cat", "coffee") for index in indices]
        (root / "labels" / f"{split}.txt").write_text("\n".join(lines))
    out = convert(root, tmp_path / "converted")
    assert len(open_store(out, "all")) == 51
    for split in FOLDS:
        expected, found = open_store(root, split), open_store(out, split)
        contents = [
            [(bytes(store.read(sample)), int(store.labels[sample])) for sample in range(len(store))]
            for store in (expected, found)
        ]
        assert contents[0] == contents[1], split
    monkeypatch.chdir(tmp_path)
    assert finetune(out, "--weights=none", "--run_dir=runs/one") == 0
    assert json.loads(Path("runs/one/result.json").read_text())["test_samples"] == 15


def test_a_set_within_its_source_is_no_source(
    sources: dict[str, Path], converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither begun, as for the second split or after a kill, nor whole."""
    root = Path(shutil.copytree(sources["tree"], tmp_path / "imagenet"))
    for flags in (["--part=1/3"], [], []):
        convert(root, root / "converted", *flags)
    assert "val is converted already: 3 shards" in capsys.readouterr().out
    expected = manifest_of(converted)["splits"]["train"]["shards"]
    assert manifest_of(root / "converted")["splits"]["train"]["shards"] == expected


def test_a_set_converted_again_keeps_its_classes(converted: Path, tmp_path: Path) -> None:
    again = convert(converted, tmp_path / "again", "--images=short_side=32")
    for split in ("train", "val"):
        before, after = (open_store(folder, split) for folder in (converted, again))
        assert after.classes == before.classes == CLASSES
        labels = [
            {store.key(place).rpartition(":")[2]: int(store.labels[place]) for place in range(len(store))}
            for store in (before, after)
        ]
        assert labels[0] == labels[1]


def test_show_and_check_of_a_whole_set(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "show", f"--data_dir={converted}", f"--pictures={tmp_path / 'pictures'}"]) == 0
    printed = capsys.readouterr().out
    assert "5 classes, images original" in printed
    assert "train: 45 images" in printed
    assert "from archives, 0 repaired, 0 quarantined" in printed
    for name in ("sides", "train", "val"):
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 100
    assert main(["convert", "check", f"--data_dir={converted}", "--full"]) == 0
    assert "65 samples as the manifest says, every image decoded" in capsys.readouterr().out
    with pytest.raises(InputError, match="has no split 'test'"):
        open_store(converted, "test")
